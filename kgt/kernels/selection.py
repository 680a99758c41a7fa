"""The Key-Graph Constructor: similarities and their exact top-k, row by row, that never leave the chip.

Similarities become integers in the order of the floats they are the bits of; the k-th largest of a row is found by
bisection, counting passes alone, and ties at it are cut at a column found likewise, so that the lower index wins.
Columns are taken in chunks; the keys of a row of up to KEPT chunks stay in registers, those of a longer one (KEPT = 0)
are computed again in every pass.
"""

import triton
import triton.language as tl

from kgt.kernels.common import product

INELIGIBLE = tl.constexpr(-(1 << 31))
ITSELF = tl.constexpr((1 << 31) - 1)
"""Keys below and above those of every finite similarity."""

DEPTH = tl.constexpr(16)
"""Channels of one product."""


@triton.jit
def _keys(vectors, regions, row, chunk, nodes, channels, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """(ROWS, CHUNK) keys of one chunk of columns."""
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    clamped = tl.minimum(column, nodes - 1)
    similarity = tl.zeros([ROWS, CHUNK], tl.float32)
    for first in range(0, channels, DEPTH):
        channel = first + tl.arange(0, DEPTH)
        there = (channel < channels)[None, :]
        ours = tl.load(vectors + row[:, None] * channels + channel[None, :], mask=there, other=0.0)
        theirs = tl.load(vectors + clamped[:, None] * channels + channel[None, :], mask=there, other=0.0)
        similarity = product(ours, tl.trans(theirs), similarity)
    bits = tl.where(similarity == 0.0, 0.0, similarity).to(tl.int32, bitcast=True)  # −0 and +0 tie
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    eligible = (row >= 0)[:, None] & (column < nodes)[None, :]
    if regions is not None:
        region = tl.load(regions + row)[:, None]
        eligible = eligible & (region >= 0) & (region == tl.load(regions + clamped)[None, :])
    return tl.where(row[:, None] == column[None, :], ITSELF, tl.where(eligible, keys, INELIGIBLE))


@triton.jit
def _chosen(keys, chunk, threshold, cut, CHUNK: tl.constexpr):
    """The keys above the threshold, and those at it up to column `cut`."""
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    at = (keys == threshold[:, None]) & (column[None, :] <= cut[:, None])
    return ((keys > threshold[:, None]) | at).to(tl.int32)


@triton.jit
def _count(
    kept, vectors, regions, row, threshold, cut, nodes, channels,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """How many keys of every row `_chosen` takes."""
    total = tl.zeros([ROWS, CHUNK], tl.int32)
    if KEPT:
        for chunk in tl.static_range(KEPT):
            total += _chosen(kept[chunk], chunk, threshold, cut, CHUNK)
    else:
        for chunk in range(tl.cdiv(nodes, CHUNK)):
            keys = _keys(vectors, regions, row, chunk, nodes, channels, ROWS, CHUNK)
            total += _chosen(keys, chunk, threshold, cut, CHUNK)
    return tl.sum(total, 1)


@triton.jit
def _store_bits(bits, chosen, at, inside, chunk, words, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    packed = tl.sum(tl.reshape(chosen, (ROWS, CHUNK // 32, 32)) << tl.arange(0, 32)[None, None, :], 2)
    word = chunk * (CHUNK // 32) + tl.arange(0, CHUNK // 32)
    tl.store(bits + (at * words)[:, None] + word[None, :], packed, mask=inside[:, None] & (word < words)[None, :])


@triton.jit
def select(
    vectors, regions, bits, counts, k, nodes, channels, words, period,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """bits (W, N, words) and counts (W, N) of ROWS rows, from vectors (W, N, C) and, if any, regions (period, N)."""
    parts = tl.cdiv(nodes, ROWS)
    window, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    row = part * ROWS + tl.arange(0, ROWS)
    inside = row < nodes
    row = tl.minimum(row, nodes - 1)
    vectors += window * nodes * channels
    if regions is not None:
        regions += window % period * nodes
    kept = ()
    for chunk in tl.static_range(KEPT):
        kept = kept + (_keys(vectors, regions, row, chunk, nodes, channels, ROWS, CHUNK),)  # noqa: RUF005 (Triton unpacks none)

    # The largest threshold that enough keys reach: they reach low, too few reach what is above high.
    low, anywhere = tl.full([ROWS], INELIGIBLE + 1, tl.int32), tl.full([ROWS], nodes, tl.int32)
    eligible = _count(kept, vectors, regions, row, low, anywhere, nodes, channels, ROWS, CHUNK, KEPT)
    wanted = tl.minimum(eligible, k)
    high = tl.where(eligible == wanted, low, ITSELF)
    while tl.max((low < high).to(tl.int32), 0) > 0:
        middle = (low | high) - ((low ^ high) >> 1)  # their mean, rounded up, without overflow
        count = _count(kept, vectors, regions, row, middle, anywhere, nodes, channels, ROWS, CHUNK, KEPT)
        live = low < high
        high = tl.where(live & (count <= wanted), middle - (count < wanted).to(tl.int32), high)
        low = tl.where(live & (count >= wanted), middle, low)

    # The lowest column that enough of those at the threshold lie up to.
    reached = _count(kept, vectors, regions, row, low, anywhere, nodes, channels, ROWS, CHUNK, KEPT)
    last = tl.full([ROWS], nodes - 1, tl.int32)
    first = tl.where(reached == wanted, last, 0)
    while tl.max((first < last).to(tl.int32), 0) > 0:
        middle = (first + last) >> 1
        count = _count(kept, vectors, regions, row, low, middle, nodes, channels, ROWS, CHUNK, KEPT)
        last = tl.where(count >= wanted, middle, last)
        first = tl.where(count >= wanted, first, middle + 1)

    at = window * nodes + row
    tl.store(counts + at, wanted.to(tl.int16), mask=inside)
    if KEPT:
        for chunk in tl.static_range(KEPT):
            chosen = _chosen(kept[chunk], chunk, low, last, CHUNK)
            _store_bits(bits, chosen, at, inside, chunk, words, ROWS, CHUNK)
    else:
        for chunk in range(tl.cdiv(nodes, CHUNK)):
            keys = _keys(vectors, regions, row, chunk, nodes, channels, ROWS, CHUNK)
            chosen = _chosen(keys, chunk, low, last, CHUNK)
            _store_bits(bits, chosen, at, inside, chunk, words, ROWS, CHUNK)
