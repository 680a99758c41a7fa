"""Self-ensemble (Timofte et al. 2016, "Seven ways to improve example-based single image super resolution")."""

import torch
from torch import Tensor, nn

Symmetry = tuple[bool, bool, bool]
"""Whether rows and columns change places, then rows are reversed, then columns."""

_ALL: tuple[Symmetry, ...] = tuple((t, v, h) for t in (False, True) for v in (False, True) for h in (False, True))

_ALLOWED: dict[str, tuple[Symmetry, ...]] = {
    "demosaic": ((False, False, False), (True, False, False)),  # an RGGB mosaic is one when transposed, not mirrored
    "weather": ((False, False, False), (False, False, True)),  # rain falls: only left and right may change places
}


def symmetries(task: str) -> tuple[Symmetry, ...]:
    """Those that leave what the task undoes as it is: the eight of a square, or fewer."""
    return _ALLOWED.get(task, _ALL)


class SelfEnsemble(nn.Module):
    """A KGT that answers with the mean of its answers to the mirrored and turned input; it costs as many passes."""

    def __init__(self, model: nn.Module, task: str) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self._symmetries = symmetries(task)

    def forward(self, x: Tensor, k: int | None = None) -> Tensor:
        """As KGT.forward: (B, in, H, W) → (B, out, H · scale, W · scale)."""
        answers = [_undone(self.model(_done(x, symmetry), k), symmetry) for symmetry in self._symmetries]
        return torch.stack(answers).mean(0)


def _done(x: Tensor, symmetry: Symmetry) -> Tensor:
    transposed, vertical, horizontal = symmetry
    x = x.transpose(2, 3) if transposed else x
    return x.flip(_reversed(vertical, horizontal)).contiguous()


def _undone(x: Tensor, symmetry: Symmetry) -> Tensor:
    transposed, vertical, horizontal = symmetry
    x = x.flip(_reversed(vertical, horizontal))
    return x.transpose(2, 3) if transposed else x


def _reversed(vertical: bool, horizontal: bool) -> list[int]:
    return [2] * vertical + [3] * horizontal
