"""Exact top-k of similarity rows with ties to the lower index.

In numba on the CPU, fused with the similarities in Triton on a GPU, and by a stable sort elsewhere.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kgt.threads import run_tasks
from kgt.tiles import TILE, row_words

ROW_MULTIPLE = 8
"""Rows of neighbour indices are padded to a multiple of this, for the sake of vector loads."""

_ROWS, _CHUNK, _KEPT = 16, 256, 4
"""Of a program of `select_fused`: rows, columns of a chunk, and how many chunks of keys stay in registers."""

_INELIGIBLE, _ITSELF = -(1 << 31), (1 << 31) - 1
"""Keys below and above those of every finite similarity."""


def select_neighbours(similarity: Tensor, k: int, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The self and the most similar eligible others of every row, min(k, eligible) in all, in ascending order.

    similarity: (W, N, N) float32. regions: (W, N), as in `kgt.graph.key_graph`.

    Returns indices (W, N, K) int16, padded by node 0, and counts (W, N) int16.
    """
    if similarity.device.type == "cpu":
        return _select_cpu(similarity, k, regions)
    return _select_sorted(similarity, k, regions)


@torch.library.custom_op("kgt::select_fused", mutates_args=())
def select_fused(vectors: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`select_neighbours` of the similarities vectors · vectorsᵀ, which are never written to memory (Triton).

    vectors: (W, N, C) float32. regions: (P, N), as in `kgt.graph.key_graph`.

    Returns bits (W, N, words) int32, as in `kgt.tiles.TiledGraph`, indices (W, N, K) int16 and counts (W, N) int16.
    """
    from kgt.kernels.selection import select
    from kgt.kernels.tiles import list_neighbours

    windows, nodes, channels = vectors.shape
    bits, indices, counts = _empty_selection(vectors, k)
    indices.zero_()
    members = None if regions is None else regions.to(torch.int32).contiguous()
    words, chunk = bits.shape[2], min(_CHUNK, max(TILE, 1 << (nodes - 1).bit_length()))
    chunks = -(-nodes // chunk)
    with torch.cuda.device_of(vectors):
        select[(windows * -(-nodes // _ROWS),)](
            *(vectors.contiguous(), members, bits, counts, k, nodes, channels, words),
            1 if members is None else len(members),
            ROWS=_ROWS,
            CHUNK=chunk,
            KEPT=chunks if chunks <= _KEPT else 0,
            num_warps=chunk // 32,
            num_stages=1,
        )
        listed = 1 << (words - 1).bit_length()
        list_neighbours[(windows * nodes,)](
            *(bits, indices, indices.shape[2], words), WORDS=listed, num_warps=max(1, listed // 32)
        )
    return bits, indices, counts


@select_fused.register_fake
def _(vectors: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_selection(vectors, k)


def _empty_selection(vectors: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    windows, nodes, _ = vectors.shape
    return (
        vectors.new_empty(windows, nodes, row_words(nodes), dtype=torch.int32),
        vectors.new_empty(windows, nodes, row_length(k, nodes), dtype=torch.int16),
        vectors.new_empty(windows, nodes, dtype=torch.int16),
    )


def row_length(k: int, nodes: int) -> int:
    """K, the padded length of a row of indices."""
    return -(-min(k, nodes) // ROW_MULTIPLE) * ROW_MULTIPLE


def _select_sorted(similarity: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    windows, nodes = similarity.shape[:2]
    itself = torch.eye(nodes, dtype=torch.bool, device=similarity.device)
    if regions is None:
        eligible = torch.ones_like(itself).expand(windows, -1, -1)
    else:
        eligible = (regions[:, :, None] == regions[:, None, :]) & (regions[:, :, None] >= 0) | itself
    ranked = similarity.masked_fill(~eligible, -torch.inf).masked_fill(itself, torch.inf)
    counts = eligible.sum(-1).clamp(max=k)
    kept = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    beyond = torch.arange(kept.shape[-1], device=kept.device) >= counts[..., None]
    kept = kept.masked_fill(beyond, nodes).sort(dim=-1).values
    indices = torch.zeros(windows, nodes, row_length(k, nodes), dtype=torch.int16, device=kept.device)
    indices[..., : kept.shape[-1]] = kept.masked_fill(beyond, 0)
    return indices, counts.to(torch.int16)


@torch.library.custom_op("kgt::select_neighbours", mutates_args=())
def _select_cpu(similarity: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    windows, nodes = similarity.shape[:2]
    indices = torch.zeros(windows, nodes, row_length(k, nodes), dtype=torch.int16)
    counts = torch.empty(windows, nodes, dtype=torch.int16)
    members = torch.zeros(windows, nodes, dtype=torch.int8) if regions is None else regions.to(torch.int8)
    arrays = (tensor.contiguous().numpy() for tensor in (similarity, members))
    run_tasks(_select_window, windows, *arrays, k, indices.numpy(), counts.numpy())
    return indices, counts


@_select_cpu.register_fake
def _(similarity: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    windows, nodes = similarity.shape[:2]
    return (
        similarity.new_empty(windows, nodes, row_length(k, nodes), dtype=torch.int16),
        similarity.new_empty(windows, nodes, dtype=torch.int16),
    )


@njit(nogil=True, cache=True)
def _select_window(w, similarity, regions, k, indices, counts):
    """Rows of window w. The threshold that k keys reach is found by bisection: counting passes, no sort, no heap."""
    nodes = similarity.shape[1]
    row = np.empty(nodes, np.float32)
    bits = row.view(np.int32)
    keys = np.empty(nodes, np.int32)
    chosen = np.empty(nodes + 1, np.int16)
    for i in range(nodes):
        for j in range(nodes):
            row[j] = similarity[w, i, j] + np.float32(0.0)  # −0 and +0 tie
        region = regions[w, i]
        eligible = np.int32(1)
        lowest = np.int32(_ITSELF)
        for j in range(nodes):
            # Integers in the order of the floats they are the bits of.
            key = bits[j] ^ ((bits[j] >> np.int32(31)) & np.int32(0x7FFFFFFF))
            is_eligible = (region >= 0) & (regions[w, j] == region) & (j != i)
            keys[j] = key if is_eligible else np.int32(_INELIGIBLE)
            lowest = min(lowest, key if is_eligible else np.int32(_ITSELF))
            eligible += np.int32(is_eligible)
        keys[i] = np.int32(_ITSELF)
        wanted = min(k, np.int64(eligible))
        # Invariant: `reached` ≥ wanted keys are at least low, fewer than wanted are at least high.
        reached, low, high = np.int64(eligible), np.int64(lowest), np.int64(_ITSELF) + 1
        while reached > wanted and high - low > 1:
            middle = (low + high) >> 1
            count = np.int64(_count_from(keys, np.int32(middle)))
            if count >= wanted:
                low, reached = middle, count
            else:
                high = middle
        threshold = np.int32(low)
        ties = wanted if reached == wanted else wanted - np.int64(_count_from(keys, np.int32(high)))
        n = 0
        for j in range(nodes):  # without branches: half of them would be mispredicted
            chosen[n] = j
            at_threshold = keys[j] == threshold
            n += (keys[j] > threshold) | (at_threshold & (ties > 0))
            ties -= at_threshold
        indices[w, i, :n] = chosen[:n]
        counts[w, i] = n


@njit(nogil=True, cache=True)
def _count_from(keys, threshold):
    count = np.int32(0)
    for j in range(keys.size):
        count += np.int32(keys[j] >= threshold)
    return count
