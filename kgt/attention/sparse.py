"""Attention on the CPU that visits a node's neighbours only, forward and backward, in numba.

    s_ij = scale · cos(q_i, k_j) + bias[i − j],   p_ij = exp(s_ij − lse_i),   o_i = Σ_j p_ij v_j   for j in graph(i)
    ds_ij = p_ij (do_i · v_j − do_i · o_i),   do: the gradient of o, and so on

A task is one head of a fixed share of the windows and owns all it writes, its part of the bias gradient included: no
atomics, and the same bits on any number of threads. Memory: the graph, O(N), and one window's copies a thread.
"""

import functools
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kgt.attention import scores, vectors
from kgt.attention.layout import empty_heads_inside
from kgt.attention.scores import NORM_EPSILON
from kgt.attention.vectors import (
    BATCH,
    LANES,
    add_scaled,
    add_to_rows,
    biased_dots,
    dot,
    dots,
    exponentials,
    load_row,
    scale_row,
    store_row,
    weighted_sum,
)
from kgt.graph import KeyGraph
from kgt.threads import run_tasks

_SHARES = 32
"""Parts that the windows are split into at most: enough for many cores, few enough for the bias gradients' memory."""


def sparse_attention(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, scale: Tensor, bias: Tensor) -> Tensor:
    """See `key_graph_attention`; `scale` (h,) is the exponentiated one. float32 alone."""
    out, _ = _forward(q, k, v, graph.indices, graph.counts, scale, bias)
    return out


@torch.library.custom_op("kgt::sparse_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, indices: Tensor, counts: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the output (W, h, N, d) and the rows' log-sum-exp (W, h, N)."""
    out, lse = empty_heads_inside(q), q.new_empty(q.shape[:3])
    inputs = (*_rows_contiguous(q, k, v), *_setting(indices, counts, scale, bias), out, lse)
    shares = min(len(q), _SHARES)
    run_tasks(_forward_kernel(_padded(q.shape[3])), shares * q.shape[1], shares, *_arrays(inputs))
    return out, lse


@torch.library.custom_op("kgt::sparse_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    indices: Tensor,
    counts: Tensor,
    scale: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k, v, scale and bias."""
    grads = [empty_heads_inside(x) for x in (q, k, v)]
    shares = min(len(q), _SHARES)
    grad_scale = scale.new_zeros(shares, *scale.shape)
    grad_bias = bias.new_zeros(shares, len(bias), bias[0].numel())
    grad, q, k, v = _rows_contiguous(grad, q, k, v)
    inputs = (grad, out, lse, q, k, v, *_setting(indices, counts, scale, bias))
    outputs = (*grads, grad_scale, grad_bias)
    run_tasks(_backward_kernel(_padded(q.shape[3])), shares * q.shape[1], shares, *_arrays((*inputs, *outputs)))
    return *grads, grad_scale.sum(0), grad_bias.sum(0).view_as(bias)


@_forward.register_fake
def _(q, k, v, indices, counts, scale, bias):
    return empty_heads_inside(q), q.new_empty(q.shape[:3])


@_backward.register_fake
def _(grad, out, lse, q, k, v, indices, counts, scale, bias):
    return *(empty_heads_inside(x) for x in (q, k, v)), scale.new_empty(scale.shape), bias.new_empty(bias.shape)


def _keep(ctx, inputs, output):
    q, k, v, indices, counts, scale, bias = inputs
    out, lse = output
    ctx.save_for_backward(out, lse, q, k, v, indices, counts, scale, bias)
    ctx.mark_non_differentiable(lse)


def _differentiate(ctx, grad, _):
    q, k, v, scale, bias = _backward(grad, *ctx.saved_tensors)
    return q, k, v, None, None, scale, bias


_forward.register_autograd(_differentiate, setup_context=_keep)


def _rows_contiguous(*tensors: Tensor) -> list[Tensor]:
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _setting(indices: Tensor, counts: Tensor, scale: Tensor, bias: Tensor) -> list[Tensor | int]:
    """The same, contiguous, every head's biases side by side, and the columns of a window."""
    return [*(x.contiguous() for x in (indices, counts, scale, bias.flatten(1))), (bias.shape[2] + 1) // 2]


def _arrays(arguments: Iterable[Tensor | int]) -> list[np.ndarray | int]:
    return [x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments]


def _padded(width: int) -> int:
    """Head widths are zero-padded to whole vectors: rows of 60 bytes defeat their loads."""
    return -(-width // LANES) * LANES


_jit = functools.partial(njit, nogil=True, cache=True, fastmath=True, error_model="numpy")


@_jit()
def _read_row(indices, w, i, columns, index, places):
    """The neighbours of node i, and where their biases are in a table with rows of 2 · columns − 1."""
    nodes = indices.shape[1]
    here = np.int32(_place(i, columns) + _place(nodes - 1, columns))
    wider, inverse = np.int32(columns - 1), np.float32(1.0) / np.float32(columns)
    for j in range(indices.shape[2]):
        index[j] = indices[w, i, j]
    for j in range(indices.shape[2]):
        # Division by a product, which has a vector instruction; exact for what an int16 can hold.
        row = np.int32((np.float32(index[j]) + np.float32(0.5)) * inverse)
        places[j] = here - index[j] - row * wider


@_jit()
def _place(node, columns):
    """Of a node in a table with rows of 2 · columns − 1; differences of places are those of positions."""
    return node + node // columns * (columns - 1)


@_jit()
def _whole_batches(n):
    return (n + BATCH - 1) // BATCH * BATCH


@_jit()
def _is_finite(x):
    """Of contiguous floats, by their bits: fast arithmetic may take it for granted."""
    exponent, found = np.int32(0x7F800000), np.int32(0)
    bits = x.reshape(x.size).view(np.int32)
    for j in range(bits.size):
        found |= np.int32((bits[j] & exponent) == exponent)
    return found == 0


@_jit(inline="always")
def _load_units(x, w, h, to, inverse, width):
    """Copy head h of window w as unit vectors, with the inverse lengths."""
    for i in range(x.shape[2]):
        load_row(x, w, h, i, to, i)
        inverse[i] = np.float32(1.0) / np.sqrt(dot(to, i, to, i, width) + np.float32(NORM_EPSILON))
        scale_row(to, i, inverse[i], to, i, width)


@_jit(inline="always")
def _store_unit_gradient(to, w, h, gradient, unit, inverse, width):
    """The gradient through x ↦ x / √(|x|² + ε): (g − x̂ (x̂ · g)) / √(|x|² + ε), with x̂ the result."""
    for i in range(to.shape[2]):
        add_scaled(gradient, i, -dot(unit, i, gradient, i, width), unit, i, width)
        scale_row(gradient, i, inverse[i], gradient, i, width)
        store_row(to, w, h, i, gradient, i)


_SOURCES = functools.reduce(
    lambda seen, module: zlib.crc32(Path(module.__file__).read_bytes(), seen), (scores, vectors), 0
)
"""Of what the kernels are made of beside this file. They hold it, as numba's cache looks at this file and at what a
kernel holds alone."""

_X = "float32[:,:,:,:]"
_SETTING = "int16[:,:,::1], int16[:,::1], float32[::1], float32[:,::1], int64"  # indices, counts, scale, bias, columns
_FORWARD = f"void(int64, int64, {_X}, {_X}, {_X}, {_SETTING}, {_X}, float32[:,:,::1])"
_BACKWARD = (
    f"void(int64, int64, {_X}, {_X}, float32[:,:,::1], {_X}, {_X}, {_X}, {_SETTING}, {_X}, {_X}, {_X}, "
    "float32[:,::1], float32[:,:,::1])"
)


@functools.cache
def _forward_kernel(width: int) -> Callable[..., None]:
    """For heads padded to `width` channels; a kernel is compiled when first wanted, and cached on disk."""
    sources = _SOURCES

    @_jit(_FORWARD)
    def forward(task, shares, q, k, v, indices, counts, scale, bias, columns, out, lse):
        sources  # noqa: B018
        windows, heads, nodes, _ = q.shape
        h, share = task % heads, task // heads
        queries, keys = np.zeros((nodes, width), np.float32), np.zeros((nodes, width), np.float32)
        values, inverse = np.zeros((nodes, width), np.float32), np.empty(nodes, np.float32)
        length = _whole_batches(indices.shape[2])
        index, places = np.zeros(length, np.int32), np.zeros(length, np.int32)
        weights, row = np.empty(length, np.float32), np.empty((2, width), np.float32)
        setting = _is_finite(bias[h]) and _is_finite(scale[h : h + 1])
        for w in range(share * windows // shares, (share + 1) * windows // shares):
            _load_units(q, w, h, queries, inverse, width)
            _load_units(k, w, h, keys, inverse, width)
            for i in range(nodes):
                load_row(v, w, h, i, values, i)
            if not (setting and _is_finite(queries) and _is_finite(keys) and _is_finite(values)):
                out[w, h] = np.nan
                lse[w, h] = np.nan
                continue
            for i in range(nodes):
                n = counts[w, i]
                _read_row(indices, w, i, columns, index, places)
                scale_row(row, 0, scale[h], queries, i, width)
                top = biased_dots(row, 0, keys, index, n, bias[h], places, weights, width)
                norm = exponentials(weights, n, top)
                lse[w, h, i] = top + np.log(norm)
                weighted_sum(weights, values, index, n, row, 0, width)
                scale_row(row, 1, np.float32(1.0) / norm, row, 0, width)
                store_row(out, w, h, i, row, 1)

    return forward


@functools.cache
def _backward_kernel(width: int) -> Callable[..., None]:
    """For heads padded to `width` channels."""
    sources = _SOURCES

    @_jit(_BACKWARD)
    def backward(
        task, shares, grad, out, lse, q, k, v, indices, counts, scale, bias, columns, dq, dk, dv, dscale, dbias
    ):
        sources  # noqa: B018
        windows, heads, nodes, _ = q.shape
        h, share = task % heads, task // heads
        queries, keys = np.zeros((nodes, width), np.float32), np.zeros((nodes, width), np.float32)
        values, grads = np.zeros((nodes, width), np.float32), np.zeros((nodes, width), np.float32)
        query_inverse, key_inverse = np.empty(nodes, np.float32), np.empty(nodes, np.float32)
        query_grads, key_grads = np.empty((nodes, width), np.float32), np.empty((nodes, width), np.float32)
        value_grads = np.empty((nodes, width), np.float32)
        length = _whole_batches(indices.shape[2])
        index, places = np.zeros(length, np.int32), np.zeros(length, np.int32)
        weights, score_grads = np.empty(length, np.float32), np.empty(length, np.float32)
        row = np.zeros((2, width), np.float32)
        for w in range(share * windows // shares, (share + 1) * windows // shares):
            _load_units(q, w, h, queries, query_inverse, width)
            _load_units(k, w, h, keys, key_inverse, width)
            for i in range(nodes):
                load_row(v, w, h, i, values, i)
                load_row(grad, w, h, i, grads, i)
            if not (_is_finite(lse[w, h]) and _is_finite(grads)):
                dq[w, h], dk[w, h], dv[w, h] = np.nan, np.nan, np.nan
                dscale[share, h] = np.nan
                dbias[share, h] = np.nan
                continue
            key_grads[:] = 0
            value_grads[:] = 0
            for i in range(nodes):
                n = counts[w, i]
                _read_row(indices, w, i, columns, index, places)
                load_row(out, w, h, i, row, 1)
                grad_dot_out = dot(grads, i, row, 1, width)
                scale_row(row, 0, scale[h], queries, i, width)
                biased_dots(row, 0, keys, index, n, bias[h], places, weights, width)
                dots(grads, i, values, index, n, score_grads, width)
                exponentials(weights, n, lse[w, h, i])
                for j in range(n):
                    score_grads[j] = weights[j] * (score_grads[j] - grad_dot_out)
                for j in range(n):
                    dbias[share, h, places[j]] += score_grads[j]
                add_to_rows(key_grads, index, n, score_grads, row, 0, width)
                add_to_rows(value_grads, index, n, weights, grads, i, width)
                weighted_sum(score_grads, keys, index, n, query_grads, i, width)
                dscale[share, h] += dot(query_grads, i, queries, i, width)
                scale_row(query_grads, i, scale[h], query_grads, i, width)
            _store_unit_gradient(dq, w, h, query_grads, queries, query_inverse, width)
            _store_unit_gradient(dk, w, h, key_grads, keys, key_inverse, width)
            for i in range(nodes):
                store_row(dv, w, h, i, value_grads, i)

    return backward
