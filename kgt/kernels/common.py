"""What the attention kernels share: products, rows in any order, neighbour bits, places in the bias table."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

LOG2E = tl.constexpr(1.4426950408889634)
"""Scores are kept in base 2, whose exponential is one instruction."""


@triton.jit
def product(a, b, acc=None):
    """acc + a @ b in float32. Three TF32 products keep what float32 operands hold; narrower types are exact."""
    if INTERPRETED:  # numpy has no bfloat16: the interpreter multiplies its bits as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="tf32x3")


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 x rounded to the nearest of a type."""
    if INTERPRETED and dtype == tl.bfloat16:  # the interpreter cuts off; hardware rounds
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def load_rows(x, rows, stride, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The (len(rows), PADDED) rows of x, channels from WIDTH on as zeros."""
    channel = tl.arange(0, PADDED)
    at = x + rows[:, None] * stride + channel[None, :]
    if WIDTH == PADDED:
        return tl.load(at)
    return tl.load(at, mask=channel[None, :] < WIDTH, other=0.0)


@triton.jit
def store_rows(x, rows, stride, value, inside, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Write the first WIDTH channels of those rows that are `inside`."""
    channel = tl.arange(0, PADDED)
    mask = inside[:, None] & (channel[None, :] < WIDTH)
    tl.store(x + rows[:, None] * stride + channel[None, :], narrow(value, x.dtype.element_ty), mask=mask)


@triton.jit
def visited(bits, start):
    """(len(bits), 32) bool: bits start … start + 31 of the rows of words that `bits` points to; start % 32 = 0."""
    return ((tl.load(bits + start // 32)[:, None] >> tl.arange(0, 32)[None, :]) & 1) != 0


@triton.jit
def place(node, columns):
    """Place of a node in a table with rows of 2 · columns − 1; differences of places are those of positions."""
    return node + node // columns * (columns - 1)


@triton.jit
def through_norm(gradient, unit, inverse):
    """The gradient through x ↦ x / √(|x|² + ε): (g − x̂ (x̂ · g)) / √(|x|² + ε)."""
    return (gradient - unit * tl.sum(unit * gradient, 1)[:, None]) * inverse[:, None]
