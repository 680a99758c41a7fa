"""The Key-Graph: which nodes of a window attend to which (paper §3.2), and the random top-k of training (§3.3)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from kgt import kernels
from kgt.config import RANDOM_TOPK, Similarity
from kgt.ordering import bisection_order
from kgt.selection import select_fused, select_neighbours
from kgt.tiles import TILE, TiledGraph, tile_graph, worth_gathering

_REGIONS = -1, 4
"""The first region's number and that after the last: padding, and a half-shifted window's four corners at most."""


@dataclass(frozen=True)
class KeyGraph:
    """The neighbours of every node of every window; shared by the heads and layers of a stage, without a gradient.

    indices: (W, N, K) int16. The first `counts[w, i]` entries of row (w, i) are the neighbours of node i, none
        twice (`key_graph` makes them ascend); the rest is padding by node 0.
    counts: (W, N) int16, min(k, eligible nodes): at least 1.
    tiled: the same for the GPU kernels, which make it at every call where it is None.

    Raises ValueError, naming the field, for a wrong shape or type and, on the CPU, for an index or count out of range
    or a neighbour named twice (on a GPU the check would wait for the device).
    """

    indices: Tensor
    counts: Tensor
    tiled: TiledGraph | None = None

    def __post_init__(self) -> None:
        for name, tensor, ndim in (("indices", self.indices, 3), ("counts", self.counts, 2)):
            if tensor.dtype != torch.int16 or tensor.ndim != ndim:
                raise ValueError(f"{name} must be int16 of {ndim} axes, not {tensor.dtype} {tuple(tensor.shape)}")
        if self.indices.shape[:2] != self.counts.shape:
            raise ValueError(f"counts must be {tuple(self.indices.shape[:2])}, not {tuple(self.counts.shape)}")
        if not self.indices.shape[2]:
            raise ValueError("indices must have room for a neighbour of every node")
        if self.indices.device.type == "cpu" and self.indices.numel() and not torch.compiler.is_compiling():
            _check_entries(self)

    @property
    def nodes(self) -> int:
        """N, the nodes of a window."""
        return self.indices.shape[1]

    def valid(self) -> Tensor:
        """(W, N, K) bool: which entries of `indices` are neighbours."""
        return torch.arange(self.indices.shape[2], device=self.counts.device) < self.counts[..., None]

    def mask(self) -> Tensor:
        """(W, N, N) bool: entry (i, j) tells whether node j is a neighbour of node i."""
        # Padding may repeat a neighbour: it is sent to an extra column.
        mask = torch.zeros(*self.counts.shape, self.nodes + 1, dtype=torch.bool, device=self.indices.device)
        return mask.scatter_(2, self.indices.long().masked_fill(~self.valid(), self.nodes), True)[..., :-1]


def key_graph(
    features: Tensor, k: int, *, similarity: Similarity = "centred", regions: Tensor | None = None
) -> KeyGraph:
    """Keep of every node its `k` most similar eligible nodes, itself always among them.

    features: (W, N, C) of any float type; similarities are accumulated in float32 (in bfloat16 nearly every row ties).
    k: neighbours of these N nodes (`kgt.config.neighbours` scales it); fewer where fewer are eligible.
    similarity: `centred`, the cosine after subtracting the mean over the eligible nodes; `cosine`; `dot` (the paper's).
    regions: (P, N) integers from −1 to 3, as in `kgt.windows.Windows.regions`, for windows that repeat every P: nodes
        are eligible to each other where theirs agree and are not negative. None: all are.

    Ties go to the lower index. The result is a constant to autograd.

    Raises ValueError, naming the argument, for what does not fit.
    """
    _check(features, k, similarity, regions)
    backward = torch.is_grad_enabled()
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        vectors = features.detach().float()
        if similarity == "centred":
            vectors = vectors - _mean_of_eligible(vectors, regions)
        if similarity != "dot":
            vectors = F.normalize(vectors, dim=-1)
        if kernels.obstacle(features.device) is None:
            return _fused(vectors, k, regions, backward)
        return KeyGraph(*select_neighbours(vectors, k, regions))


def _fused(vectors: Tensor, k: int, regions: Tensor | None, backward: bool) -> KeyGraph:
    """By Triton kernels, with what the attention kernels need."""
    bits, indices, counts = select_fused(vectors, k, regions)
    order = bisection_order(vectors, TILE) if worth_gathering(vectors.shape[1], k) else None
    return KeyGraph(indices, counts, tile_graph(bits, order, backward=backward))


def draw_topk(seed: int, step: int, choices: Sequence[int] = RANDOM_TOPK) -> int:
    """The neighbour count of one training step, uniform over `choices`: a function of its arguments alone."""
    digest = hashlib.blake2b(f"topk:{seed}:{step}".encode(), digest_size=8).digest()
    return choices[int.from_bytes(digest) % len(choices)]


def _check(features: Tensor, k: int, similarity: str, regions: Tensor | None) -> None:
    if features.ndim != 3 or not features.is_floating_point():
        raise ValueError(f"features must be floats (windows, nodes, channels), not {features.dtype} {features.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if similarity not in get_args(Similarity):
        raise ValueError(f"similarity must be one of {', '.join(get_args(Similarity))}, not {similarity!r}")
    if regions is None:
        return
    if regions.ndim != 2 or regions.shape[1] != features.shape[1] or len(features) % len(regions):
        raise ValueError(
            f"regions must be (P, {features.shape[1]}) where P divides {len(features)}, not {tuple(regions.shape)}"
        )
    if regions.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_range("regions", regions, _REGIONS[0], _REGIONS[1] - 1)


def _check_range(name: str, values: Tensor, least: int, most: int) -> None:
    lowest, highest = (int(value) for value in values.aminmax())
    if lowest < least or highest > most:
        raise ValueError(f"{name} must lie in [{least}, {most}], not reach from {lowest} to {highest}")


def _check_entries(graph: KeyGraph) -> None:
    _check_range("indices", graph.indices, 0, graph.nodes - 1)
    _check_range("counts", graph.counts, 1, graph.indices.shape[2])
    if not _are_distinct(graph.indices.contiguous().numpy(), graph.counts.contiguous().numpy()):
        raise ValueError("indices must not name a neighbour twice in the first `counts` entries of a row")


@njit(nogil=True, cache=True)
def _are_distinct(indices, counts):
    windows, nodes = counts.shape
    last = np.full(nodes, -1, np.int64)  # the row that each node was last seen in
    found = False
    for row in range(windows * nodes):
        w, i = row // nodes, row % nodes
        for j in range(counts[w, i]):
            found |= last[indices[w, i, j]] == row
            last[indices[w, i, j]] = row
    return not found


def _mean_of_eligible(vectors: Tensor, regions: Tensor | None) -> Tensor:
    """The mean over each node's region, so that padding and what lies across a wrap have no say. Broadcasts."""
    if regions is None:
        return vectors.mean(1, keepdim=True)
    ids = torch.arange(*_REGIONS, device=regions.device)
    member = (regions[:, None, :] == ids[:, None]).to(vectors.dtype)  # (P, R, N)
    grouped = vectors.unflatten(0, (-1, len(regions)))  # (B, P, N, C)
    means = (member @ grouped) / member.sum(-1, keepdim=True).clamp(min=1)
    return (member.mT @ means).flatten(0, 1)
