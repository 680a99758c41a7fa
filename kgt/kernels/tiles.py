"""Bits of a Key-Graph turned round, gathered and listed."""

import triton
import triton.language as tl


@triton.jit
def transpose(bits, out, nodes, words):
    """Bits 32 a … of rows 32 b … become bits 32 b … of rows 32 a …: a program is one such square of one window."""
    window, a, b = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    lane = tl.arange(0, 32)
    row, column = b * 32 + lane, a * 32 + lane
    word = tl.load(bits + (window * nodes + row) * words + a, mask=row < nodes, other=0)
    turned = tl.sum(((word[None, :] >> lane[:, None]) & 1) << lane[None, :], 1)
    tl.store(out + (window * nodes + column) * words + b, turned, mask=column < nodes)


@triton.jit
def _set_bits(words, WORDS: tl.constexpr):
    """Of (WORDS,) words: (WORDS, 32) which bits are set, which place each has among them, and how many there are."""
    flags = (words[:, None] >> tl.arange(0, 32)[None, :]) & 1
    of_word = tl.sum(flags, 1)
    before = tl.cumsum(of_word, 0) - of_word
    return flags != 0, before[:, None] + tl.cumsum(flags, 1) - flags, tl.sum(of_word, 0)


@triton.jit
def list_neighbours(bits, indices, length, words, WORDS: tl.constexpr):
    """indices (W · N, length) ← the set bits of a row, ascending; `indices` holds zeros."""
    row, word = tl.program_id(0).to(tl.int64), tl.arange(0, WORDS)
    flags, place, _ = _set_bits(tl.load(bits + row * words + word, mask=word < words, other=0), WORDS)
    node = word[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(indices + row * length + place, node.to(tl.int16), mask=flags)


@triton.jit
def unite(bits, order, union, sizes, nodes, words, TILE: tl.constexpr, WORDS: tl.constexpr):
    """union (W, T, N), sizes (W, T) ← what the rows of a tile visit, ascending: a program is a tile of a window."""
    tiles = tl.cdiv(nodes, TILE)
    at = tl.program_id(0).to(tl.int64)
    window, position = at // tiles, tl.minimum(at % tiles * TILE + tl.arange(0, TILE), nodes - 1)
    row = window * nodes + tl.load(order + window * nodes + position)
    word = tl.arange(0, WORDS)
    visits = tl.load(bits + (row * words)[:, None] + word[None, :], mask=(word < words)[None, :], other=0)
    flags, place, size = _set_bits(tl.reduce_or(visits, 0), WORDS)
    node = word[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(union + at * nodes + place, node.to(tl.int16), mask=flags)
    tl.store(sizes + at, size)


@triton.jit
def gather_bits(bits, order, union, sizes, out, nodes, words, TILE: tl.constexpr):
    """A word of every row of a tile: out (W, N, words) in the rows' order and the columns of the tile's union."""
    tiles = tl.cdiv(nodes, TILE)
    at, word = tl.program_id(0).to(tl.int64), tl.program_id(1)
    window, position = at // tiles, at % tiles * TILE + tl.arange(0, TILE)
    inside = position < nodes
    position = window * nodes + tl.minimum(position, nodes - 1)
    row = window * nodes + tl.load(order + position)
    lane = tl.arange(0, 32)
    column = word * 32 + lane
    there = column < tl.load(sizes + at)
    node = tl.load(union + at * nodes + column, mask=there, other=0).to(tl.int32)
    found = (tl.load(bits + (row * words)[:, None] + (node // 32)[None, :]) >> (node % 32)[None, :]) & 1
    packed = tl.sum(tl.where(there[None, :], found << lane[None, :], 0), 1)
    tl.store(out + position * words + word, packed, mask=inside)
