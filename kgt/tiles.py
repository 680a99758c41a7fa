"""The graph as the GPU kernels want it: a bit for every pair of nodes, and what every tile of 64 rows visits."""

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 64
"""Rows of a tile, and columns that a kernel visits at once."""


@dataclass(frozen=True)
class Tiles:
    """What the rows of a graph visit, tile by tile; rows are queries or, in the transposed graph, keys.

    bits: (W, N, words) int32, words as in `row_words`: bit c % 32 of word c // 32 of a row tells whether it visits c.
    """

    bits: Tensor

    def tensors(self) -> list[Tensor]:
        """The fields, for an operator's arguments."""
        return [self.bits]


@dataclass(frozen=True)
class TiledGraph:
    """A Key-Graph for the GPU kernels; shared by the heads and layers of a stage.

    bits: (W, N, words) int32: bit j % 32 of word j // 32 of row i tells whether node j is a neighbour of node i.
    queries, keys: what queries visit, and what keys are visited by; keys are for the backward alone, None without.
    """

    bits: Tensor
    queries: Tiles
    keys: Tiles | None


def tile_graph(indices: Tensor, valid: Tensor) -> TiledGraph:
    """For a graph of (W, N, K) `indices`, those that are `valid`."""
    bits = pack_bits(indices, valid)
    keys = Tiles(transposed(bits)) if torch.is_grad_enabled() else None
    return TiledGraph(bits, Tiles(bits), keys)


def row_words(nodes: int) -> int:
    """Words of 32 bits in a row: those of whole tiles."""
    return -(-nodes // TILE) * (TILE // 32)


def pack_bits(indices: Tensor, valid: Tensor) -> Tensor:
    """(W, N, words) int32 from the (W, N, K) `indices` of nodes, those that are `valid`."""
    windows, nodes = indices.shape[:2]
    index = indices.to(torch.int64)
    bits = (valid.to(torch.int64) << (index & 31)).to(torch.int32)  # bit 31 is the sign
    words = torch.zeros(windows, nodes, row_words(nodes), dtype=torch.int32, device=indices.device)
    return words.scatter_add_(2, index >> 5, bits)  # sums of integers are the same in any order


@torch.library.custom_op("kgt::transposed_bits", mutates_args=())
def transposed(bits: Tensor) -> Tensor:
    """(W, N, words) int32: row j tells which rows of `bits` visit node j."""
    from kgt.kernels.tiles import transpose

    windows, nodes, words = bits.shape
    out = torch.empty_like(bits)
    with torch.cuda.device_of(bits):
        transpose[words, words, windows](bits, out, nodes, words)
    return out


@transposed.register_fake
def _(bits):
    return torch.empty_like(bits)
