"""Chooses the attention implementation, says why, and calls it."""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from kgt.attention.dense import dense_attention
from kgt.attention.gather import gather_attention
from kgt.attention.sparse import sparse_attention
from kgt.errors import UserError
from kgt.graph import KeyGraph
from kgt.tasks import nearest

Name = Literal["dense", "gather", "sparse"]
IMPLEMENTATIONS = {"dense": dense_attention, "gather": gather_attention, "sparse": sparse_attention}
MAX_LOGIT_SCALE = math.log(100.0)

_SMALL = 64
"""Nodes up to which dense attention on the CPU is as fast once half of them are kept: measured, forward + backward, for
4096 nodes and 6 heads of 30 channels on one thread, dense / sparse: 38 / 29 ms at N = 64 and k = 16, 39 / 40 at 32,
39 / 52 at 64; with all nodes kept, 450 / 122 at N = 256 and 1985 / 801 at 1024 (tests/benchmarks/attention.py)."""

_forced: ContextVar[Name | None] = ContextVar("forced", default=None)


@dataclass(frozen=True)
class Choice:
    """The implementation taken and the reason, in words."""

    name: Name
    reason: str


@contextlib.contextmanager
def forced(name: Name) -> Iterator[None]:
    """Within this block (and this thread) every attention uses the implementation `name`."""
    if name not in get_args(Name):
        raise UserError(f"unknown attention '{name}': {nearest(name, get_args(Name))}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(device: torch.device | str, dtype: torch.dtype, nodes: int, k: int) -> Choice:
    """The implementation for windows of `nodes` nodes that keep `k` neighbours each.

    Raises UserError where a forced one cannot run.
    """
    kind = torch.device(device).type
    name = _forced.get()
    if name == "sparse" and kind != "cpu":
        raise UserError(f"attention 'sparse' runs on the CPU alone, not on {kind}: force 'dense' or none")
    if name == "sparse" and dtype == torch.float64:
        raise UserError("attention 'sparse' computes in float32: force 'dense' for float64")
    if name:
        return Choice(name, "forced")
    if kind != "cpu":
        return Choice("dense", f"the only implementation for {kind}")
    if dtype == torch.float64:
        return Choice("dense", "float64 asks for the reference")
    if nodes <= _SMALL and 2 * k > nodes:
        return Choice("dense", f"keeps {min(k, nodes)} of only {nodes} nodes")
    return Choice("sparse", f"visits {min(k, nodes)} of {nodes} nodes on the CPU")


def attend(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, logit_scale: Tensor, bias: Tensor) -> Tensor:
    """Cosine attention of every node over its neighbours in the graph alone.

        score_ij = exp(min(s_h, ln 100)) · cos(q_i, k_j) + bias_h[position of i − position of j]

    q, k, v: (W, h, N, d), W windows and h heads. logit_scale: (h,), the s_h above.
    bias: (h, 2·rows − 1, 2·columns − 1) for windows of rows × columns = N nodes, the zero offset in its middle.

    Returns (W, h, N, d) in q's type; narrower types than float32 are computed in float32.
    """
    implementation = IMPLEMENTATIONS[choose(q.device, q.dtype, graph.nodes, graph.indices.shape[2]).name]
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scale = logit_scale.to(wide).clamp(max=MAX_LOGIT_SCALE).exp()
        out = implementation(q.to(wide), k.to(wide), v.to(wide), graph, scale, bias.to(wide))
        return out.to(q.dtype)
