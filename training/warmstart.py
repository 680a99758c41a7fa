"""`init=`: weights of another training as the start of this one, as far as they fit.

They are copied into the run's folder when it begins: an alias that moves later changes nothing.
"""

from pathlib import Path

from torch import nn

from kgt.errors import UserError
from kgt.weights import load_weights


def take_over(model: nn.Module, path: Path, source: str) -> str:
    """Give the model every parameter that the weights file has under the same name in the same shape.

    source: what the user called the file. What was taken and what was not, in one line. Raises UserError if the file is
    no KGT, or nothing fits.
    """
    try:
        given = load_weights(path)[0].state_dict()
    except UserError as error:
        raise UserError(str(error).replace(str(path), f"init={source}")) from error
    own = model.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise UserError(f"init={source}: none of its parameters fits this model: give weights of a model like it")
    model.load_state_dict(fitting, strict=False)
    line = f"starts from {source}: {len(fitting)} of {len(own)} tensors taken"
    fresh = [name for name in own if name not in fitting]
    unused = [name for name in given if name not in fitting]
    for what, names in (("new here", fresh), ("not taken", unused)):
        if names:
            line += f"; {what}: {', '.join(names)}"
    return line
