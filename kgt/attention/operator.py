"""The one attention operator: checks its arguments, asks the dispatcher, calls the implementation."""

import math

import torch
from torch import Tensor

from kgt.attention.dense import dense_attention
from kgt.attention.dispatch import implementation
from kgt.attention.flash import flash_attention
from kgt.attention.gather import gather_attention
from kgt.attention.sparse import sparse_attention
from kgt.graph import KeyGraph

MAX_LOGIT_SCALE = math.log(100.0)
_IMPLEMENTATIONS = {"dense": dense_attention, "gather": gather_attention, "sparse": sparse_attention}


def key_graph_attention(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, logit_scale: Tensor, bias: Tensor) -> Tensor:
    """Cosine attention of every node over its neighbours in the graph alone.

        score_ij = exp(min(s_h, ln 100)) · cos(q_i, k_j) + bias_h[position of i − position of j]

    q, k, v: (W, h, N, d) of one floating type, W windows and h heads, in any memory layout; gradients keep to the
        layout (W, N, h, d), that of a linear projection. logit_scale: (h,), the s_h above.
    bias: (h, 2·rows − 1, 2·columns − 1) for windows of rows × columns = N nodes, the zero offset in its middle.

    Returns (W, h, N, d) in q's type. All five have gradients. Narrower types than float32 are computed in float32,
    by 'triton' with products of the narrow type; autocast has no say.

    Finite inputs give finite results while their squares sum to finite float32 numbers (and float16 gradients are in
    its range). A node that is not finite makes its own row so, and in its window and head any row may follow (what is
    masked is multiplied by zero); other windows and heads never do.

    Raises ValueError, naming the argument, for a shape, type or device that does not fit.
    """
    _check(q, k, v, graph, logit_scale, bias)
    name = implementation(q.device, q.dtype, q.shape[3])
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scale, bias = logit_scale.to(wide).clamp(max=MAX_LOGIT_SCALE).exp(), bias.to(wide)
        if name == "triton":
            return flash_attention(q, k, v, graph, scale, bias)
        return _IMPLEMENTATIONS[name](q.to(wide), k.to(wide), v.to(wide), graph, scale, bias).to(q.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, logit_scale: Tensor, bias: Tensor) -> None:
    if q.ndim != 4:
        raise ValueError(f"q must be (windows, heads, nodes, channels), not {tuple(q.shape)}")
    if min(q.shape) == 0:
        raise ValueError(f"q must not be empty, as {tuple(q.shape)} is")
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise ValueError(f"{name} must have q's shape {tuple(q.shape)}, not {tuple(x.shape)}")
        if x.dtype != q.dtype:
            raise ValueError(f"{name} must have q's type {q.dtype}, not {x.dtype}")
    for name, x in (("q", q), ("logit_scale", logit_scale), ("bias", bias)):
        if not x.is_floating_point():
            raise ValueError(f"{name} must be of a floating type, not {x.dtype}")
    on_device = [("k", k), ("v", v), ("logit_scale", logit_scale), ("bias", bias)]
    on_device += [("graph", graph.indices), ("graph", graph.counts)]
    on_device += [("graph", graph.tiled.bits)] if graph.tiled else []
    for name, x in on_device:
        if x.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}, not {x.device}")
    windows, heads, nodes, _ = q.shape
    if graph.counts.shape != (windows, nodes):
        raise ValueError(
            f"graph is of {graph.counts.shape[0]} windows of {graph.nodes} nodes, q of {windows} windows of {nodes}"
        )
    if graph.tiled and graph.tiled.bits.shape[:2] != (windows, nodes):
        raise ValueError(f"graph is tiled for {tuple(graph.tiled.bits.shape[:2])}, not {(windows, nodes)}")
    if logit_scale.shape != (heads,):
        raise ValueError(f"logit_scale must be ({heads},), one a head, not {tuple(logit_scale.shape)}")
    if bias.ndim != 3 or bias.shape[0] != heads or not (bias.shape[1] % 2 and bias.shape[2] % 2):
        raise ValueError(f"bias must be ({heads}, 2·rows − 1, 2·columns − 1), not {tuple(bias.shape)}")
    rows, columns = (bias.shape[1] + 1) // 2, (bias.shape[2] + 1) // 2
    if rows * columns != nodes:
        raise ValueError(f"bias {tuple(bias.shape)} is of windows of {rows} × {columns} nodes, q has {nodes}")
