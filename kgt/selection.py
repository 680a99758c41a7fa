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

CHUNK = 1 << 18
"""Similarities that the CPU holds at once: 1 MiB of them stays in a core's cache."""

_TASK = 32
"""Rows that a thread takes at a time."""

_SORTED = 1 << 26
"""Similarities that are sorted at once, elsewhere."""

_ROWS, _CHUNK, _KEPT = 16, 256, 4
"""Of a program of `select_fused`: rows, columns of a chunk, and how many chunks of keys stay in registers."""

_INELIGIBLE, _ITSELF = -(1 << 31), (1 << 31) - 1
"""Keys below and above those of every finite similarity."""


def select_neighbours(vectors: Tensor, k: int, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The self and the most similar eligible others of every node, min(k, eligible) in all, in ascending order.

    vectors: (W, N, C) float32; nodes are similar by their inner product. regions: (P, N), as in `kgt.graph.key_graph`.

    Returns indices (W, N, K) int16, padded by node 0, and counts (W, N) int16.
    """
    if vectors.device.type == "cpu":
        return _select_cpu(vectors, k, regions)
    windows = torch.arange(len(vectors), device=vectors.device)
    parts = [
        _select_sorted(vectors[some] @ vectors[some].mT, k, None if regions is None else regions[some % len(regions)])
        for some in windows.split(max(1, _SORTED // vectors.shape[1] ** 2))
    ]
    indices, counts = zip(*parts, strict=True)
    return torch.cat(indices), torch.cat(counts)


@torch.library.custom_op("kgt::select_fused", mutates_args=())
def select_fused(vectors: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`select_neighbours` by similarities that are never written to memory (Triton).

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
def _select_cpu(vectors: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    windows, nodes, _ = vectors.shape
    indices = torch.zeros(windows, nodes, row_length(k, nodes), dtype=torch.int16)
    counts = torch.empty(windows, nodes, dtype=torch.int16)
    members = torch.zeros(1, nodes, dtype=torch.int8) if regions is None else regions.to(torch.int8).contiguous()
    together, rows = max(1, CHUNK // nodes**2), min(nodes, max(1, CHUNK // nodes))  # rows of many windows, or of one
    held = vectors.new_empty(min(together, windows), rows, nodes)
    for window in range(0, windows, together):
        chunk = vectors[window : window + together]
        for row in range(0, nodes, rows):
            ours = chunk[:, row : row + rows]
            similarity = torch.bmm(ours, chunk.mT, out=held[: len(ours), : ours.shape[1]])
            _select_chunk(similarity, members, window, row, k, indices, counts)
    return indices, counts


def _select_chunk(
    similarity: Tensor, members: Tensor, window: int, row: int, k: int, indices: Tensor, counts: Tensor
) -> None:
    """Fill in the rows of `similarity` (windows, rows, N), its first one being that `row` of that `window`."""
    arrays = (x.numpy() for x in (similarity, members, indices, counts))
    tasks = -(-similarity.shape[0] * similarity.shape[1] // _TASK)
    run_tasks(_select_rows, tasks, *arrays, window, row, k)


@_select_cpu.register_fake
def _(vectors: Tensor, k: int, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    return _empty_selection(vectors, k)[1:]


@njit(nogil=True, cache=True)
def _select_rows(task, similarity, members, indices, counts, window, first, k):
    """The threshold that k keys reach is found by bisection: counting passes, no sort, no heap."""
    windows, rows, nodes = similarity.shape
    row = np.empty(nodes, np.float32)
    bits = row.view(np.int32)
    keys = np.empty(nodes, np.int32)
    chosen = np.empty(nodes + 1, np.int16)
    for r in range(task * _TASK, min((task + 1) * _TASK, windows * rows)):
        i, w = first + r % rows, window + r // rows
        regions, similarities = members[w % members.shape[0]], similarity[r // rows, r % rows]
        for j in range(nodes):
            row[j] = similarities[j] + np.float32(0.0)  # −0 and +0 tie
        region = regions[i]
        eligible = np.int32(1)
        lowest = np.int32(_ITSELF)
        for j in range(nodes):
            # Integers in the order of the floats they are the bits of.
            key = bits[j] ^ ((bits[j] >> np.int32(31)) & np.int32(0x7FFFFFFF))
            is_eligible = (region >= 0) & (regions[j] == region) & (j != i)
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
