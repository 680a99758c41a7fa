"""Where a loss or a gradient that is not finite comes from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def first_not_finite(
    model: nn.Module, weights: Mapping[str, Tensor], images: Mapping[str, Tensor], forward: Callable[[], Tensor]
) -> str | None:
    """What is the first that is not finite, in words: images, then weights, then what the modules return, in order.

    forward: runs the model on the images. None where all of it is finite, so that only the gradient can be at fault.
    """
    for kind, tensors in (("images", images), ("weights", weights)):
        spoilt = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if spoilt:
            more = f" and {len(spoilt) - 1} more" if len(spoilt) > 1 else ""
            return f"the {kind} are not finite: {spoilt[0]}{more}"
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if not found and isinstance(output, Tensor) and not output.isfinite().all():
            found.append(names[module] or "the model")

    handles = [module.register_forward_hook(look) for module in names]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return f"what {found[0]} returns is not finite" if found else None
