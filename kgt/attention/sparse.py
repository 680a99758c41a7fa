"""Attention on the CPU that visits a node's neighbours only, forward and backward, in numba.

    s_ij = scale · cos(q_i, k_j) + bias[i − j],   p_ij = exp(s_ij − lse_i),   o_i = Σ_j p_ij v_j   for j in graph(i)
    ds_ij = p_ij (do_i · v_j − do_i · o_i),   do: the gradient of o, and so on

A task is one head of a fixed share of the windows and owns all it writes, its part of the bias gradient included: no
atomics, and the same bits on any number of threads. Memory: the graph, O(N), and one window's copies a thread.
"""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kgt.attention.scores import NORM_EPSILON, node_offsets
from kgt.attention.vectors import add_scaled, dot
from kgt.graph import KeyGraph
from kgt.threads import run_tasks

_SHARES = 32
"""Parts that the windows are split into at most: enough for many cores, few enough for the bias gradients' memory."""

_LANES = 16
"""Head widths are zero-padded to a multiple of this, one AVX-512 register (60-byte rows defeat vector loads)."""


def sparse_attention(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, scale: Tensor, bias: Tensor) -> Tensor:
    """See `key_graph_attention`; `scale` (h,) is the exponentiated one. float32 alone."""
    out, _ = _forward(q, k, v, graph.indices, graph.counts, scale, bias)
    return out


@torch.library.custom_op("kgt::sparse_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, indices: Tensor, counts: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the output (W, h, N, d) and the rows' log-sum-exp (W, h, N)."""
    out, lse = _empty_heads_inside(q), q.new_empty(q.shape[:3])
    inputs = (q, k, v, indices, counts, scale, bias.flatten(1), node_offsets(bias.shape), out, lse)
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
    grads = [_empty_heads_inside(x) for x in (q, k, v)]
    shares = min(len(q), _SHARES)
    grad_scale = scale.new_zeros(shares, *scale.shape)
    grad_bias = bias.new_zeros(shares, len(bias), bias[0].numel())
    inputs = (grad, out, lse, q, k, v, indices, counts, scale, bias.flatten(1), node_offsets(bias.shape))
    outputs = (*grads, grad_scale, grad_bias)
    run_tasks(_backward_kernel(_padded(q.shape[3])), shares * q.shape[1], shares, *_arrays((*inputs, *outputs)))
    return *grads, grad_scale.sum(0), grad_bias.sum(0).view_as(bias)


@_forward.register_fake
def _(q, k, v, indices, counts, scale, bias):
    return _empty_heads_inside(q), q.new_empty(q.shape[:3])


@_backward.register_fake
def _(grad, out, lse, q, k, v, indices, counts, scale, bias):
    return *(_empty_heads_inside(x) for x in (q, k, v)), torch.empty_like(scale), torch.empty_like(bias)


def _keep(ctx, inputs, output):
    q, k, v, indices, counts, scale, bias = inputs
    out, lse = output
    ctx.save_for_backward(out, lse, q, k, v, indices, counts, scale, bias)
    ctx.mark_non_differentiable(lse)


def _differentiate(ctx, grad, _):
    q, k, v, scale, bias = _backward(grad, *ctx.saved_tensors)
    return q, k, v, None, None, scale, bias


_forward.register_autograd(_differentiate, setup_context=_keep)


def _empty_heads_inside(x: Tensor) -> Tensor:
    """Shaped (W, h, N, d) as x, in memory (W, N, h, d): what the projections before and after want."""
    windows, heads, nodes, width = x.shape
    return x.new_empty(windows, nodes, heads, width).transpose(1, 2)


def _arrays(tensors: Iterable[Tensor]) -> list[np.ndarray]:
    return [x.detach().numpy() for x in tensors]


def _padded(width: int) -> int:
    return -(-width // _LANES) * _LANES


_jit = functools.partial(njit, nogil=True, cache=True, fastmath=True, error_model="numpy")


@_jit()
def _load(x, w, h, to):
    """Copy head h of window w."""
    for i in range(x.shape[2]):
        for c in range(x.shape[3]):
            to[i, c] = x[w, h, i, c]


@_jit()
def _load_unit(x, w, h, to, inverse):
    """Copy head h of window w as unit vectors, with the inverse lengths."""
    for i in range(x.shape[2]):
        square = np.float32(NORM_EPSILON)
        for c in range(x.shape[3]):
            square += x[w, h, i, c] * x[w, h, i, c]
        inverse[i] = np.float32(1.0) / np.sqrt(square)
        for c in range(x.shape[3]):
            to[i, c] = x[w, h, i, c] * inverse[i]


@_jit()
def _store_unit_gradient(to, w, h, gradient, unit, inverse):
    """The gradient through x ↦ x / √(|x|² + ε): (g − x̂ (x̂ · g)) / √(|x|² + ε), with x̂ the result."""
    for i in range(to.shape[2]):
        along = np.float32(0.0)
        for c in range(to.shape[3]):
            along += unit[i, c] * gradient[i, c]
        for c in range(to.shape[3]):
            to[w, h, i, c] = (gradient[i, c] - unit[i, c] * along) * inverse[i]


@_jit()
def _exponentials(scores, n, shift, powers):
    """scores[:n] ← exp(scores[:n] − shift), at least 2⁻¹²⁶; returns their sum. Cephes' exp2f, within 2e-7."""
    factor = powers.view(np.float32)
    for j in range(n):
        x = max((scores[j] - shift) * np.float32(1.4426950408889634), np.float32(-126.0))
        whole = np.floor(x + np.float32(0.5))
        powers[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        x -= whole
        y = np.float32(1.535336188319500e-4)
        y = y * x + np.float32(1.339887440266574e-3)
        y = y * x + np.float32(9.618437357674640e-3)
        y = y * x + np.float32(5.550332471162809e-2)
        y = y * x + np.float32(2.402264791363012e-1)
        y = y * x + np.float32(6.931472028550421e-1)
        scores[j] = y * x + np.float32(1.0)
    total = np.float32(0.0)
    for j in range(n):
        scores[j] *= factor[j]
        total += scores[j]
    return total


_GRAPH = "int16[:,:,::1], int16[:,::1], float32[:], float32[:,:], int64[::1]"  # indices, counts, scale, bias, offset
_X = "float32[:,:,:,:]"
_FORWARD = f"void(int64, int64, {_X}, {_X}, {_X}, {_GRAPH}, {_X}, float32[:,:,::1])"
_BACKWARD = (
    f"void(int64, int64, {_X}, {_X}, float32[:,:,::1], {_X}, {_X}, {_X}, {_GRAPH}, {_X}, {_X}, {_X}, "
    "float32[:,::1], float32[:,:,::1])"
)


@functools.cache
def _forward_kernel(width: int) -> Callable[..., None]:
    """For heads padded to `width` channels; a kernel is compiled when first wanted, and cached on disk."""

    @_jit(_FORWARD)
    def forward(task, shares, q, k, v, indices, counts, scale, bias, offset, out, lse):
        windows, heads, nodes, d = q.shape
        h, share = task % heads, task // heads
        queries, keys = np.zeros((nodes, width), np.float32), np.zeros((nodes, width), np.float32)
        values, inverse = np.zeros((nodes, width), np.float32), np.empty(nodes, np.float32)
        scores, powers = np.empty(indices.shape[2], np.float32), np.empty(indices.shape[2], np.int32)
        query, total = np.empty((1, width), np.float32), np.empty((1, width), np.float32)
        for w in range(share * windows // shares, (share + 1) * windows // shares):
            _load_unit(q, w, h, queries, inverse)
            _load_unit(k, w, h, keys, inverse)
            _load(v, w, h, values)
            for i in range(nodes):
                n = counts[w, i]
                place = offset[i] + offset[nodes - 1]
                for c in range(width):
                    query[0, c] = queries[i, c] * scale[h]
                top = np.float32(-3e38)
                for j in range(n):
                    key = indices[w, i, j]
                    score = dot(query, 0, keys, key, width) + bias[h, place - offset[key]]
                    scores[j] = score
                    top = max(top, score)
                norm = _exponentials(scores, n, top, powers)
                lse[w, h, i] = top + np.log(norm)
                total[:] = 0
                for j in range(n):
                    add_scaled(total, 0, values, indices[w, i, j], scores[j], width)
                for c in range(d):
                    out[w, h, i, c] = total[0, c] / norm

    return forward


@functools.cache
def _backward_kernel(width: int) -> Callable[..., None]:
    """For heads padded to `width` channels."""

    @_jit(_BACKWARD)
    def backward(
        task, shares, grad, out, lse, q, k, v, indices, counts, scale, bias, offset, dq, dk, dv, dscale, dbias
    ):
        windows, heads, nodes, d = q.shape
        h, share = task % heads, task // heads
        queries, keys = np.zeros((nodes, width), np.float32), np.zeros((nodes, width), np.float32)
        values, grads = np.zeros((nodes, width), np.float32), np.zeros((nodes, width), np.float32)
        query_inverse, key_inverse = np.empty(nodes, np.float32), np.empty(nodes, np.float32)
        query_grads, key_grads = np.zeros((nodes, width), np.float32), np.zeros((nodes, width), np.float32)
        value_grads = np.zeros((nodes, width), np.float32)
        scores, powers = np.empty(indices.shape[2], np.float32), np.empty(indices.shape[2], np.int32)
        score_grads = np.empty(indices.shape[2], np.float32)
        query, total = np.empty((1, width), np.float32), np.empty((1, width), np.float32)
        for w in range(share * windows // shares, (share + 1) * windows // shares):
            _load_unit(q, w, h, queries, query_inverse)
            _load_unit(k, w, h, keys, key_inverse)
            _load(v, w, h, values)
            _load(grad, w, h, grads)
            key_grads[:] = 0
            value_grads[:] = 0
            for i in range(nodes):
                n = counts[w, i]
                place = offset[i] + offset[nodes - 1]
                through_norm = np.float32(0.0)
                for c in range(d):
                    through_norm += grads[i, c] * out[w, h, i, c]
                for c in range(width):
                    query[0, c] = queries[i, c] * scale[h]
                for j in range(n):
                    key = indices[w, i, j]
                    scores[j] = dot(query, 0, keys, key, width) + bias[h, place - offset[key]]
                    score_grads[j] = dot(grads, i, values, key, width) - through_norm
                _exponentials(scores, n, lse[w, h, i], powers)
                total[:] = 0
                for j in range(n):
                    key = indices[w, i, j]
                    score_grad = scores[j] * score_grads[j]
                    dbias[share, h, place - offset[key]] += score_grad
                    add_scaled(total, 0, keys, key, score_grad, width)
                    add_scaled(key_grads, key, query, 0, score_grad, width)
                    add_scaled(value_grads, key, grads, i, scores[j], width)
                dscale[share, h] += dot(total, 0, queries, i, width)
                for c in range(width):
                    query_grads[i, c] = total[0, c] * scale[h]
            _store_unit_gradient(dq, w, h, query_grads, queries, query_inverse)
            _store_unit_gradient(dk, w, h, key_grads, keys, key_inverse)
            for i in range(nodes):
                for c in range(d):
                    dv[w, h, i, c] = value_grads[i, c]

    return backward
