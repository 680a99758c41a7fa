"""What every attention implementation agrees on: unit vectors and how the position-bias table is indexed."""

import torch
from torch import Tensor

NORM_EPSILON = 1e-6
"""Added to |x|² before the root, so that the gradient at a zero vector is finite (ours)."""


def unit(x: Tensor) -> Tensor:
    """x / √(|x|² + ε) along the last axis."""
    return x * (x.square().sum(-1, keepdim=True) + NORM_EPSILON).rsqrt()


def relative_index(table: torch.Size, device: torch.device | str = "cpu") -> Tensor:
    """(N, N) entries of the flattened (h, 2·rows − 1, 2·columns − 1) table: at (i, j), node i seen from node j."""
    node = node_offsets(table, device)
    return node[:, None] - node + node[-1]


def node_offsets(table: torch.Size, device: torch.device | str = "cpu") -> Tensor:
    """(N,) int64: place of every node in the flattened table; differences of places are those of positions."""
    rows, columns = (table[1] + 1) // 2, (table[2] + 1) // 2
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    return (row[:, None] * table[2] + column).flatten()
