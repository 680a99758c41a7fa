"""The gradient of the position-bias table: the sums of dS over all pairs of nodes at one offset, without atomics.

A program owns one head, one part of the windows, and two offsets of rows, Δy and Δy − rows, which have as many pairs of
window rows between them as the window has rows: so programs are equally long. It sums the block of dS between one
row's columns and another's over all pairs and windows, and its diagonals once at the end. For windows whose rows are
longer than a block, programs own one pair of blocks.
"""

import triton
import triton.language as tl

from kgt.kernels.common import LOG2E, load_rows, product


@triton.jit
def bias_gradient(
    q, k, v, q_inverse, k_inverse, scale, bias, bits, lse, grad, delta, dbias,
    q_w, q_h, q_n, k_w, k_h, k_n, v_w, v_h, v_n, grad_w, grad_h, grad_n,
    windows, heads, rows, columns, words, parts,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dbias (parts · blocks², h, 2 · rows − 1, 2 · columns − 1): what every program adds, zero where none does."""
    blocks = tl.cdiv(columns, BLOCK)
    part, h, dy = tl.program_id(0), tl.program_id(1) // rows, tl.program_id(1) % rows
    i_block, j_block, part = part // parts // blocks, part // parts % blocks, part % parts
    first, last = windows * part // parts, windows * (part + 1) // parts
    nodes, span = rows * columns, 2 * columns - 1
    channel = tl.arange(0, BLOCK)
    x_i, x_j = i_block * BLOCK + channel, j_block * BLOCK + channel
    inside = (x_i < columns)[:, None] & (x_j < columns)[None, :]
    x_i, x_j = tl.minimum(x_i, columns - 1), tl.minimum(x_j, columns - 1)
    dx = x_i[:, None] - x_j[None, :] + columns - 1
    factor = tl.load(scale + h) * LOG2E
    for wrapped in tl.static_range(2):
        offset = dy - wrapped * rows
        lowest, pairs = tl.maximum(offset, 0), rows - tl.abs(offset)
        table = (h * (2 * rows - 1) + offset + rows - 1) * span
        acc = tl.zeros([BLOCK, BLOCK], tl.float32)
        if pairs > 0:
            added = tl.load(bias + table + dx) * LOG2E
            for step in range((last - first) * pairs):
                window = (first + step // pairs).to(tl.int64)
                y = lowest + step % pairs
                i, j = y * columns + x_i, (y - offset) * columns + x_j
                flat = (window * heads + h) * nodes
                queries = load_rows(q + window * q_w + h * q_h, i, q_n, WIDTH, PADDED)
                keys = load_rows(k + window * k_w + h * k_h, j, k_n, WIDTH, PADDED)
                values = load_rows(v + window * v_w + h * v_h, j, v_n, WIDTH, PADDED)
                grads = load_rows(grad + window * grad_w + h * grad_h, i, grad_n, WIDTH, PADDED)
                word = tl.load(bits + ((window * nodes + i) * words)[:, None] + (j // 32)[None, :])
                visits = (((word >> (j % 32)[None, :]) & 1) != 0) & inside
                cosines = product(queries, tl.trans(keys)) * tl.load(k_inverse + flat + j)[None, :]
                scores = cosines * (tl.load(q_inverse + flat + i) * factor)[:, None] + added
                weights = tl.where(visits, tl.exp2(scores - tl.load(lse + flat + i)[:, None]), 0.0)
                acc += weights * (product(grads, tl.trans(values)) - tl.load(delta + flat + i)[:, None])
            copy = tl.program_id(0).to(tl.int64) * heads * (2 * rows - 1) * span
            for diagonal in range(span):
                tl.store(dbias + copy + table + diagonal, tl.sum(tl.where(dx == diagonal, acc, 0.0)))
