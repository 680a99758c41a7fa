"""Attention on the GPU: Triton's flash kernels over the graph's bits, forward and backward.

    s_ij = scale · cos(q_i, k_j) + bias[i − j],   p_ij = exp(s_ij − lse_i),   o_i = Σ_j p_ij v_j   for j in graph(i)
    ds_ij = p_ij (do_i · v_j − do_i · o_i),   do: the gradient of o, and so on

Products are tensor-core products in the inputs' own type, accumulated in float32 (float32 inputs by three TF32
products); the lengths in a cosine are divided out after its product, in float32. The gradients of q, of k and v, and of
the bias are kernels of their own that compute the scores again: no atomics, the same bits in every run. Memory: the
graph and O(N).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kgt.attention.layout import empty_heads_inside
from kgt.attention.scores import NORM_EPSILON
from kgt.graph import KeyGraph
from kgt.tiles import TILE, pack_bits, tile_graph, transposed

_BIAS_PROGRAMS = 1024
"""Programs that the gradient of the bias is split into, about: enough for a large GPU, few enough for their memory."""

_STAGES, _BIAS_STAGES = 2, 3
"""Steps that are in flight at once. With two, the gradient of the bias spills registers at 16 channels."""


def flash_attention(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, scale: Tensor, bias: Tensor) -> Tensor:
    """See `key_graph_attention`; `scale` (h,) is the exponentiated one. scale and bias float32."""
    tiled = graph.tiled or tile_graph(pack_bits(graph.indices, graph.valid()), backward=torch.is_grad_enabled())
    keys = tiled.keys.tensors() if tiled.keys else []
    return _forward(q, k, v, scale, bias, tiled.bits, tiled.queries.tensors(), keys)[0]


@torch.library.custom_op("kgt::flash_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    bias: Tensor,
    bits: Tensor,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the output (W, h, N, d) and, each (W, h, N), log-sum-exp in base 2, inverse lengths of q and of k.

    bits, queries, keys: the parts of a `kgt.tiles.TiledGraph`; keys are for the backward, which makes them if empty.
    """
    from kgt.kernels import attention as kernels

    out, lse, q_inverse, k_inverse = _outputs(q)
    q, k, v = (_rows_aligned(x) for x in (q, k, v))
    with torch.cuda.device_of(q):
        for x, inverse in ((q, q_inverse), (k, k_inverse)):
            kernels.inverse_norms[_grid(q)](x, inverse, *_strides(x), *q.shape[1:3], NORM_EPSILON, **_widths(q))
        kernels.forward[_grid(q)](
            *(q, k, v, q_inverse, k_inverse, scale, bias.contiguous(), *_listed(queries), out, lse),
            *_strides(q, k, v, out),
            *_sizes(q, bias, bits),
            **_widths(q),
            OUT=out.shape[3],
            GATHER=len(queries) > 1,
            num_stages=_STAGES,
        )
    return out, lse, q_inverse, k_inverse


@torch.library.custom_op("kgt::flash_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q_inverse: Tensor,
    k_inverse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    bias: Tensor,
    bits: Tensor,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k, v, scale and bias."""
    from kgt.kernels import attention as kernels
    from kgt.kernels.bias import bias_gradient

    dq, dk, dv = (empty_heads_inside(x) for x in (q, k, v))
    q, k, v, grad, bias = *(_rows_aligned(x) for x in (q, k, v, grad)), bias.contiguous()
    keys = keys or [transposed(bits)]
    windows, heads, nodes, _ = q.shape
    delta, dscale = torch.empty_like(lse), lse.new_empty(windows, heads, -(-nodes // _rows(q)))
    rows, columns = (bias.shape[1] + 1) // 2, (bias.shape[2] + 1) // 2
    block = min(_rows(q), 32, max(16, 1 << (columns - 1).bit_length()))
    parts = min(windows, max(1, _BIAS_PROGRAMS // (heads * rows)))
    dbias = bias.new_empty(parts * (-(-columns // block)) ** 2, *bias.shape)
    inputs = (q, k, v, q_inverse, k_inverse, scale, bias)
    sizes = _sizes(q, bias, bits)
    with torch.cuda.device_of(q):
        kernels.query_gradients[_grid(q)](
            *(*inputs, *_listed(queries), out, lse, grad, delta, dq, dscale),
            *_strides(q, k, v, out, grad, dq),
            *sizes,
            **_widths(q),
            OUT=out.shape[3],
            GATHER=len(queries) > 1,
            num_stages=_STAGES,
        )
        kernels.key_gradients[_grid(q)](
            *(*inputs, *_listed(keys), lse, grad, delta, dk, dv),
            *_strides(q, k, v, grad, dk, dv),
            *sizes,
            **_widths(q),
            OUT=out.shape[3],
            GATHER=len(keys) > 1,
            num_stages=_STAGES,
        )
        bias_gradient[len(dbias), heads * rows](
            *(*inputs, bits, lse, grad, delta, dbias),
            *_strides(q, k, v, grad),
            *(windows, heads, rows, columns, bits.shape[2], parts),
            WIDTH=q.shape[3],
            PADDED=_widths(q)["PADDED"],
            BLOCK=block,
            num_stages=_BIAS_STAGES,
        )
    return dq, dk, dv, dscale.sum((0, 2)), dbias.sum(0)


@_forward.register_fake
def _(q, k, v, scale, bias, bits, queries, keys):
    return _outputs(q)


@_backward.register_fake
def _(grad, out, lse, q_inverse, k_inverse, q, k, v, scale, bias, bits, queries, keys):
    return *(empty_heads_inside(x) for x in (q, k, v)), scale.new_empty(scale.shape), bias.new_empty(bias.shape)


def _keep(ctx, inputs, output):
    q, k, v, scale, bias, bits, queries, keys = inputs
    ctx.lists = len(queries), len(keys)
    ctx.save_for_backward(*output, q, k, v, scale, bias, bits, *queries, *keys)
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx, grad, *_):
    kept, (queries, keys) = ctx.saved_tensors, ctx.lists
    grads = _backward(grad, *kept[:10], kept[10 : 10 + queries], kept[10 + queries :])
    return *grads, None, [None] * queries, [None] * keys


_forward.register_autograd(_differentiate, setup_context=_keep)


def _outputs(q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return empty_heads_inside(q), *(q.new_empty(q.shape[:3], dtype=torch.float32) for _ in range(3))


def _rows_aligned(x: Tensor) -> Tensor:
    """x, or where its rows are not in whole 16 bytes, or spread out, a copy with zeros up to a multiple of 8 channels.

    Rows of 30 would be loaded channel by channel, with an address for each in registers.
    """
    if x.shape[3] % 8:
        return F.pad(x, (0, -x.shape[3] % 8)).contiguous()
    return x if x.stride(3) == 1 else x.contiguous()


def _rows(q: Tensor) -> int:
    """Rows of a program: as many as stay in registers with float32's three products, or with one."""
    return 16 if q.dtype == torch.float32 else TILE


def _grid(q: Tensor) -> tuple[int]:
    windows, heads, nodes, _ = q.shape
    return (windows * heads * -(-nodes // _rows(q)),)


def _listed(tiles: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """bits, order, union, sizes."""
    return tiles if len(tiles) > 1 else (tiles[0], None, None, None)


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:3]]


def _sizes(q: Tensor, bias: Tensor, bits: Tensor) -> tuple[int, int, int, int]:
    """Heads, nodes, columns of a window, words of a row of bits."""
    return q.shape[1], q.shape[2], (bias.shape[2] + 1) // 2, bits.shape[2]


def _widths(q: Tensor) -> dict[str, int]:
    """Rows of a program, channels of a row, and the power of two that these take in registers: a product needs 16."""
    width = q.shape[3]
    return {"ROWS": _rows(q), "WIDTH": width, "PADDED": max(16, 1 << (width - 1).bit_length())}
