"""Flash attention over a Key-Graph, forward and backward: equations in `kgt.attention.flash`.

A program is ROWS rows of one head of one window; rows are queries, in `key_gradients` keys. It walks a list of columns,
32 at a time: all nodes (GATHER = False), or the union of what its tile of 64 rows visits (GATHER = True), gathered by
index; bits tell exactly which row visits which column of the list. What it sums it sums alone and in a fixed order.
q, k, v and the gradient have WIDTH channels, zeros from OUT on, the outputs OUT; PADDED is the power of two above.
"""

import triton
import triton.language as tl

from kgt.kernels.common import LOG2E, load_rows, narrow, place, product, store_rows, through_norm, visited

TILE = tl.constexpr(64)
"""Rows that share a list of columns."""

STEP = tl.constexpr(32)
"""Columns of a step: a word of bits, and few enough that the scores, their offsets' addresses among them, stay in
registers."""


@triton.jit
def inverse_norms(
    x, inverse, x_w, x_h, x_n, heads, nodes, epsilon, ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    """inverse (W, h, N) ← 1 / √(|x|² + ε)."""
    parts = tl.cdiv(nodes, ROWS)
    head, rows = tl.program_id(0) // parts, tl.program_id(0) % parts * ROWS + tl.arange(0, ROWS)
    base = x + (head // heads).to(tl.int64) * x_w + head % heads * x_h
    value = load_rows(base, tl.minimum(rows, nodes - 1), x_n, WIDTH, PADDED).to(tl.float32)
    inverse += head.to(tl.int64) * nodes
    tl.store(inverse + rows, tl.rsqrt(tl.sum(value * value, 1) + epsilon), mask=rows < nodes)


@triton.jit
def _rows(bits, order, nodes, words, window, part, ROWS: tl.constexpr, GATHER: tl.constexpr):
    """A program's nodes, their rows of bits, and which there are (beyond the last, it repeats)."""
    position = part * ROWS + tl.arange(0, ROWS)
    inside = position < nodes
    node = tl.minimum(position, nodes - 1)
    row = window.to(tl.int64) * nodes + node
    if GATHER:
        node = tl.load(order + row).to(tl.int32)
    return node, bits + row * words, inside


@triton.jit
def _columns(union, start, nodes, size, GATHER: tl.constexpr):
    """Nodes start … start + 31 of the list; no row visits those beyond its end."""
    column = start + tl.arange(0, STEP)
    if GATHER:
        return tl.load(union + column, mask=column < size, other=0).to(tl.int32)
    return tl.minimum(column, nodes - 1)


@triton.jit
def forward(
    q, k, v, q_inverse, k_inverse, scale, bias, bits, order, union, sizes, out, lse,
    q_w, q_h, q_n, k_w, k_h, k_n, v_w, v_h, v_n, out_w, out_h, out_n,
    heads, nodes, columns, words,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, GATHER: tl.constexpr,
):  # fmt: skip
    """out and lse (base 2) of some queries."""
    parts = tl.cdiv(nodes, ROWS)
    part, head = tl.program_id(0) % parts, tl.program_id(0) // parts
    window, h = (head // heads).to(tl.int64), head % heads
    flat = head.to(tl.int64) * nodes
    i, row_bits, inside = _rows(bits, order, nodes, words, window, part, ROWS, GATHER)
    centre = place(nodes - 1, columns)
    row_bias = bias + h * (2 * centre + 1) + centre + place(i, columns)
    queries = load_rows(q + window * q_w + h * q_h, i, q_n, WIDTH, PADDED)
    factor = tl.load(q_inverse + flat + i) * (tl.load(scale + h) * LOG2E)
    top = tl.full([ROWS], -1e30, tl.float32)  # finite, so that a step without neighbours multiplies by one
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, PADDED], tl.float32)
    size = nodes
    if GATHER:
        tile = window * tl.cdiv(nodes, TILE) + part * ROWS // TILE
        size = tl.load(sizes + tile)
        union += tile * nodes
    for start in range(0, size, STEP):
        j = _columns(union, start, nodes, size, GATHER)
        keys = load_rows(k + window * k_w + h * k_h, j, k_n, WIDTH, PADDED)
        values = load_rows(v + window * v_w + h * v_h, j, v_n, WIDTH, PADDED)
        cosines = product(queries, tl.trans(keys)) * tl.load(k_inverse + flat + j)[None, :]
        offset = tl.load(row_bias[:, None] - place(j, columns)[None, :])
        scores = tl.where(visited(row_bits, start), cosines * factor[:, None] + offset * LOG2E, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        powers = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(powers, 1)
        acc = product(narrow(powers, values.dtype), values, acc * fade[:, None])
        top = higher
    store_rows(out + window * out_w + h * out_h, i, out_n, acc / total[:, None], inside, OUT, PADDED)
    tl.store(lse + flat + i, top + tl.log2(total), mask=inside)


@triton.jit
def query_gradients(
    q, k, v, q_inverse, k_inverse, scale, bias, bits, order, union, sizes, out, lse, grad, delta, dq, dscale,
    q_w, q_h, q_n, k_w, k_h, k_n, v_w, v_h, v_n, out_w, out_h, out_n, grad_w, grad_h, grad_n, dq_w, dq_h, dq_n,
    heads, nodes, columns, words,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, GATHER: tl.constexpr,
):  # fmt: skip
    """dq, delta = do · o, and the program's part of dscale, of some queries.

    o is rounded, so the ds of a row do not add up to zero as they must, and over many rows that adds up. What is left
    corrects delta, for the kernels after this one, and dscale; in dq it is as small as the rounding of dq itself.
    """
    parts = tl.cdiv(nodes, ROWS)
    part, head = tl.program_id(0) % parts, tl.program_id(0) // parts
    window, h = (head // heads).to(tl.int64), head % heads
    flat = head.to(tl.int64) * nodes
    i, row_bits, inside = _rows(bits, order, nodes, words, window, part, ROWS, GATHER)
    centre = place(nodes - 1, columns)
    row_bias = bias + h * (2 * centre + 1) + centre + place(i, columns)
    queries = load_rows(q + window * q_w + h * q_h, i, q_n, WIDTH, PADDED)
    grads = load_rows(grad + window * grad_w + h * grad_h, i, grad_n, WIDTH, PADDED)
    outs = load_rows(out + window * out_w + h * out_h, i, out_n, OUT, PADDED)
    through = tl.sum(outs.to(tl.float32) * grads.to(tl.float32), 1)
    inverse = tl.load(q_inverse + flat + i)
    factor = inverse * (tl.load(scale + h) * LOG2E)
    shift = tl.load(lse + flat + i)
    acc = tl.zeros([ROWS, PADDED], tl.float32)
    excess = tl.zeros([ROWS], tl.float32)
    mean_cosine = tl.zeros([ROWS], tl.float32)
    turn = tl.zeros([ROWS], tl.float32)
    size = nodes
    if GATHER:
        tile = window * tl.cdiv(nodes, TILE) + part * ROWS // TILE
        size = tl.load(sizes + tile)
        union += tile * nodes
    for start in range(0, size, STEP):
        j = _columns(union, start, nodes, size, GATHER)
        keys = load_rows(k + window * k_w + h * k_h, j, k_n, WIDTH, PADDED)
        values = load_rows(v + window * v_w + h * v_h, j, v_n, WIDTH, PADDED)
        key_inverse = tl.load(k_inverse + flat + j)[None, :]
        offset = tl.load(row_bias[:, None] - place(j, columns)[None, :])
        cosines = product(queries, tl.trans(keys)) * key_inverse  # but for the query's length
        scores = cosines * factor[:, None] + offset * LOG2E
        weights = tl.where(visited(row_bits, start), tl.exp2(scores - shift[:, None]), 0.0)
        dscores = weights * (product(grads, tl.trans(values)) - through[:, None])
        excess += tl.sum(dscores, 1)
        mean_cosine += tl.sum(weights * cosines, 1)
        turn += tl.sum(dscores * cosines, 1)
        acc = product(narrow(dscores * key_inverse, keys.dtype), keys, acc)
    unit = queries.to(tl.float32) * inverse[:, None]
    gradient = through_norm(acc, unit, inverse) * tl.load(scale + h)
    store_rows(dq + window * dq_w + h * dq_h, i, dq_n, gradient, inside, OUT, PADDED)
    tl.store(delta + flat + i, through + excess, mask=inside)
    turn = (turn - excess * mean_cosine) * inverse
    tl.store(dscale + head.to(tl.int64) * parts + part, tl.sum(tl.where(inside, turn, 0.0), 0))


@triton.jit
def key_gradients(
    q, k, v, q_inverse, k_inverse, scale, bias, bits, order, union, sizes, lse, grad, delta, dk, dv,
    q_w, q_h, q_n, k_w, k_h, k_n, v_w, v_h, v_n, grad_w, grad_h, grad_n, dk_w, dk_h, dk_n, dv_w, dv_h, dv_n,
    heads, nodes, columns, words,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, GATHER: tl.constexpr,
):  # fmt: skip
    """dk and dv of some keys; the list, the bits and `order` are those of the transposed graph."""
    parts = tl.cdiv(nodes, ROWS)
    part, head = tl.program_id(0) % parts, tl.program_id(0) // parts
    window, h = (head // heads).to(tl.int64), head % heads
    flat = head.to(tl.int64) * nodes
    j, row_bits, inside = _rows(bits, order, nodes, words, window, part, ROWS, GATHER)
    centre = place(nodes - 1, columns)
    row_bias = bias + h * (2 * centre + 1) + centre - place(j, columns)
    keys = load_rows(k + window * k_w + h * k_h, j, k_n, WIDTH, PADDED)
    values = load_rows(v + window * v_w + h * v_h, j, v_n, WIDTH, PADDED)
    inverse = tl.load(k_inverse + flat + j)
    factor = inverse * (tl.load(scale + h) * LOG2E)
    acc_k = tl.zeros([ROWS, PADDED], tl.float32)
    acc_v = tl.zeros([ROWS, PADDED], tl.float32)
    size = nodes
    if GATHER:
        tile = window * tl.cdiv(nodes, TILE) + part * ROWS // TILE
        size = tl.load(sizes + tile)
        union += tile * nodes
    for start in range(0, size, STEP):
        i = _columns(union, start, nodes, size, GATHER)
        queries = load_rows(q + window * q_w + h * q_h, i, q_n, WIDTH, PADDED)
        grads = load_rows(grad + window * grad_w + h * grad_h, i, grad_n, WIDTH, PADDED)
        query_inverse = tl.load(q_inverse + flat + i)[None, :]
        offset = tl.load(row_bias[:, None] + place(i, columns)[None, :])
        scores = product(keys, tl.trans(queries)) * query_inverse * factor[:, None] + offset * LOG2E
        powers = tl.exp2(scores - tl.load(lse + flat + i)[None, :])
        weights = tl.where(visited(row_bits, start), powers, 0.0)
        acc_v = product(narrow(weights, grads.dtype), grads, acc_v)
        dscores = weights * (product(values, tl.trans(grads)) - tl.load(delta + flat + i)[None, :])
        acc_k = product(narrow(dscores * query_inverse, queries.dtype), queries, acc_k)
    gradient = through_norm(acc_k, keys.to(tl.float32) * inverse[:, None], inverse) * tl.load(scale + h)
    store_rows(dk + window * dk_w + h * dk_h, j, dk_n, gradient, inside, OUT, PADDED)
    store_rows(dv + window * dv_w + h * dv_h, j, dv_n, acc_v, inside, OUT, PADDED)
