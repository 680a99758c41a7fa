"""Orders a window's nodes so that similar ones, whose neighbours are the same, are next to each other."""

import torch
from torch import Tensor

_ITERATIONS = 6
"""Of the power method: the axis need not be exact, only the same every time."""


def bisection_order(vectors: Tensor, size: int) -> Tensor:
    """(W, N) int16: the nodes of (W, N, C) float32 `vectors`, halved along their principal axis down to runs of `size`.

    Every run of `size` nodes, and every run of 2 · size, 4 · size, … that begins at a multiple of its length, is one
    half of the run that holds it: those on one side of the median along the axis of largest spread.
    """
    windows, nodes, channels = vectors.shape
    levels = max(0, (-(-nodes // size) - 1).bit_length())
    total = size << levels
    # Missing nodes lie beyond all others, so they stay at the end.
    present = torch.arange(total, device=vectors.device).expand(windows, -1) < nodes
    order = torch.arange(total, device=vectors.device).expand(windows, -1)
    vectors = torch.nn.functional.pad(vectors, (0, 0, 0, total - nodes))
    for level in range(levels):
        groups = (windows << level, total >> level)
        x, there = vectors.reshape(*groups, channels), present.reshape(groups)[..., None]
        x = (x - x.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)) * there
        along = _principal(x).masked_fill(~there[..., 0], torch.inf)
        rank = along.argsort(dim=1, stable=True)
        order = order.reshape(groups).gather(1, rank).reshape(windows, total)
        present = present.reshape(groups).gather(1, rank).reshape(windows, total)
        vectors = vectors.reshape(*groups, channels).gather(1, rank[..., None].expand(-1, -1, channels))
        vectors = vectors.reshape(windows, total, channels)
    return order[:, :nodes].to(torch.int16)


def _principal(x: Tensor) -> Tensor:
    """(G, n): the coordinates of centred (G, n, C) points along their principal axis, found by the power method."""
    along = x.gather(2, x.square().sum(1).argmax(1)[:, None, None].expand(-1, x.shape[1], 1))  # the widest channel
    for _ in range(_ITERATIONS):
        axis = torch.nn.functional.normalize(x.mT @ along, dim=1)
        along = x @ axis
    return along[..., 0]
