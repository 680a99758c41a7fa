"""The graph as the GPU kernels want it: a bit for every pair of nodes, and what every tile of 64 rows visits."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 64
"""Rows of a tile: those that share a list of columns."""


_OVERLAP = ((0.0, 0.0), (1 / 16, 0.58), (1 / 8, 0.69), (1 / 4, 0.79), (1 / 2, 0.88), (1.0, 1.0))
"""Share of the nodes that each keeps → share that a tile visits, of 1024 nodes of a briefly trained denoising model.

The mean of clean photographs (.37, .48, .61, .77) and of noisy ones, σ = 25 (.78, .91, .97, 1.00): docs/attention.md.
"""

_WORTH_GATHERING = 0.8
"""Beyond this share, walking all nodes in order is expected to be as fast. Not yet measured on a GPU."""


@dataclass(frozen=True)
class Tiles:
    """What the rows of a graph visit, tile by tile; rows are queries or, in the transposed graph, keys.

    bits: (W, N, words) int32, words as in `row_words`: bit c % 32 of word c // 32 of a row tells whether it visits
        column c. Rows and columns are nodes, or, where the rest is there:
    order: (W, N) int16, the node of every row.
    union: (W, tiles, N) int16, the node of every column: ascending, what any row of the tile visits.
    sizes: (W, tiles) int32, how many these are.
    """

    bits: Tensor
    order: Tensor | None = None
    union: Tensor | None = None
    sizes: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """The fields that are there, for an operator's arguments."""
        return [x for x in (self.bits, self.order, self.union, self.sizes) if x is not None]


@dataclass(frozen=True)
class TiledGraph:
    """A Key-Graph for the GPU kernels; shared by the heads and layers of a stage.

    bits: (W, N, words) int32: bit j % 32 of word j // 32 of row i tells whether node j is a neighbour of node i.
    queries, keys: what queries visit, and what keys are visited by; keys are for the backward alone, None without.
    """

    bits: Tensor
    queries: Tiles
    keys: Tiles | None

    def overlap(self) -> float:
        """The mean share of a window's nodes that a tile of queries visits: 1 where tiles do not gather."""
        return 1.0 if self.queries.sizes is None else self.queries.sizes.float().mean().item() / self.bits.shape[1]


def tile_graph(bits: Tensor, order: Tensor | None = None, *, backward: bool = True) -> TiledGraph:
    """Of the graph with those `bits`.

    order: (W, N) int16; tiles of nodes in this order gather what they visit. None: tiles walk all nodes as they are.
    backward: whether gradients will be wanted.
    """
    keys = Tiles(transposed(bits)) if backward else None
    if order is None:
        return TiledGraph(bits, Tiles(bits), keys)
    order = order.contiguous()
    queries = Tiles(*_gathered(bits, order))
    return TiledGraph(bits, queries, keys and Tiles(*_gathered(keys.bits, order)))


def expected_overlap(nodes: int, k: int) -> float:
    """The share of a window's nodes that a tile of similar ones visits, where each keeps `k`: as `_OVERLAP` measured.

    What a tile does visit is counted on the device (`Tiles.sizes`), where the host need not wait for it.
    """
    if nodes <= TILE:
        return 1.0  # one tile
    kept = min(1.0, k / nodes)
    for (fewer, low), (more, high) in itertools.pairwise(_OVERLAP):
        if kept <= more:
            return low + (high - low) * (kept - fewer) / (more - fewer)
    return 1.0


def worth_gathering(nodes: int, k: int) -> bool:
    """Whether a tile is expected to visit so few nodes that gathering pays for the order and the unions."""
    return expected_overlap(nodes, k) <= _WORTH_GATHERING


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
        transpose[windows, words, words](bits, out, nodes, words)
    return out


@transposed.register_fake
def _(bits):
    return torch.empty_like(bits)


def _gathered(bits: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Tiles` for rows in that order."""
    return _gather_bits(bits, order, *(united := _unite(bits, order))), order, *united


@torch.library.custom_op("kgt::unite", mutates_args=())
def _unite(bits: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Union and sizes, as in `Tiles`."""
    from kgt.kernels.tiles import unite

    nodes, words = bits.shape[1:]
    union, sizes = _empty_union(bits)
    with torch.cuda.device_of(bits):
        listed = 1 << (words - 1).bit_length()
        unite[(sizes.numel(),)](
            *(bits, order, union, sizes, nodes, words), TILE=TILE, WORDS=listed, num_warps=max(4, min(16, listed // 16))
        )
    return union, sizes


@_unite.register_fake
def _(bits, order):
    return _empty_union(bits)


def _empty_union(bits: Tensor) -> tuple[Tensor, Tensor]:
    windows, nodes, _ = bits.shape
    tiles = -(-nodes // TILE)
    return bits.new_empty(windows, tiles, nodes, dtype=torch.int16), bits.new_empty(windows, tiles)


@torch.library.custom_op("kgt::gather_bits", mutates_args=())
def _gather_bits(bits: Tensor, order: Tensor, union: Tensor, sizes: Tensor) -> Tensor:
    """Bits in the rows' order and the columns of their union, as in `Tiles`."""
    from kgt.kernels.tiles import gather_bits

    out = torch.empty_like(bits)
    with torch.cuda.device_of(bits):
        gather_bits[sizes.numel(), bits.shape[2]](bits, order, union, sizes, out, *bits.shape[1:], TILE=TILE)
    return out


@_gather_bits.register_fake
def _(bits, order, union, sizes):
    return torch.empty_like(bits)
