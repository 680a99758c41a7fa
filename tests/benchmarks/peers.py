"""Other ways to compute attention, under the conditions of ours: cosine attention of the same q, k, v and scale.

What the graph alone decides (the N × N mask, the block mask) is made before the clock starts, as our graph is; what a
layer owns (the scaled unit vectors, the bias at every pair of nodes) is made inside.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from kgt.attention import choose, forced, key_graph_attention
from kgt.attention.operator import MAX_LOGIT_SCALE
from kgt.attention.scores import node_offsets, relative_index, unit
from kgt.graph import KeyGraph
from tests.benchmarks.features import Features


@dataclass(frozen=True)
class Problem:
    """One attention: leaves q, k, v, logit_scale and bias as in `Features`, and the gradient of the output."""

    leaves: tuple[Tensor, ...]
    graph: KeyGraph
    grad: Tensor

    @property
    def device(self) -> torch.device:
        """Of all tensors."""
        return self.grad.device

    def ours(self) -> str:
        """The implementation that the dispatcher picks."""
        q = self.leaves[0]
        return choose(q.device, q.dtype, self.graph.nodes, self.graph.indices.shape[2], q.shape[3]).name


@dataclass(frozen=True)
class Peer:
    """An implementation. same: whether it computes what ours does, with bias and graph, or attends to all nodes.

    attend: the output (W, h, N, d) of the leaves. trains: whether it has a backward pass here.
    """

    name: str
    attend: Callable[..., Tensor]
    same: bool = True
    trains: bool = True


def problem(found: Features, graph: KeyGraph, device: torch.device, dtype: torch.dtype) -> Problem:
    """q, k and v in `dtype`; scale and bias stay in float32, as they do under autocast."""
    tensors = [x.to(device, dtype) for x in (found.q, found.k, found.v)]
    tensors += [found.logit_scale.to(device), found.bias.to(device)]
    windows, heads, nodes, width = found.q.shape
    grad = torch.randn(windows, nodes, heads, width, generator=torch.Generator().manual_seed(1))
    return Problem(tuple(x.detach().requires_grad_() for x in tensors), graph, grad.to(device, dtype).transpose(1, 2))


def forward(peer: Peer, given: Problem) -> Callable[[], object]:
    """A call that runs it without gradients."""
    arguments = [x.detach() for x in given.leaves]  # FlexAttention looks at requires_grad even where none are recorded

    def run() -> None:
        with torch.no_grad():
            peer.attend(*arguments)

    return run


def both(peer: Peer, given: Problem) -> Callable[[], object]:
    """A call that runs it and the gradients of all leaves that it depends on."""
    wanted = given.leaves if peer.same else given.leaves[:4]
    return lambda: torch.autograd.grad(peer.attend(*given.leaves), wanted, given.grad)


def implementations(given: Problem) -> list[Peer]:
    """Ours, each forced."""
    names = ("dense", "gather", "triton") if given.device.type == "cuda" else ("dense", "gather", "sparse")
    return [Peer(name, functools.partial(_forced, name, given.graph)) for name in names]


def peers(given: Problem) -> list[Peer]:
    """PyTorch's own: with the same bias and graph, and scaled_dot_product_attention over all nodes without bias."""
    return [*_masked(given), *_unmasked(given)]


def _masked(given: Problem) -> Iterator[Peer]:
    mask, bias = given.graph.mask(), given.leaves[4]
    relative = relative_index(bias.shape, given.device).flatten()
    yield Peer("SDPA masked", functools.partial(_sdpa_masked, mask, relative))
    blocks = create_block_mask(lambda b, h, i, j: mask[b, i, j], len(mask), None, *mask.shape[1:], device=given.device)
    offsets = node_offsets(bias.shape, given.device)
    flex = functools.partial(_compiled_flex(), blocks=blocks, offsets=offsets, last=int(offsets[-1]))
    yield Peer("FlexAttention", flex, trains=given.device.type == "cuda")  # on the CPU it has no backward


def _unmasked(given: Problem) -> Iterator[Peer]:
    """By every backend that runs here."""
    small = replace(given, leaves=tuple(x[:1] if x.ndim == 4 else x for x in given.leaves), grad=given.grad[:1])
    for backend in (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.MATH,
    ):
        kind = backend.name.removesuffix("_ATTENTION").lower()
        peer = Peer(f"SDPA unmasked, {kind}", functools.partial(_sdpa_unmasked, backend), same=False)
        try:
            both(peer, small)()
        except RuntimeError as error:
            if "No available kernel" not in str(error) and "No viable backend" not in str(error):
                raise
            continue
        yield peer


def _forced(name: str, graph: KeyGraph, q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor) -> Tensor:
    with forced(name):
        return key_graph_attention(q, k, v, graph, logit_scale, bias)


def _cosine(q: Tensor, k: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose product is scale · cosine, in their own type."""
    scale = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()[:, None, None]
    return (unit(q.float()) * scale).to(q.dtype), unit(k.float()).to(k.dtype)


def _sdpa_unmasked(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*_cosine(q, k, logit_scale), v, scale=1.0)


def _sdpa_masked(
    mask: Tensor, relative: Tensor, q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor
) -> Tensor:
    # index_select: its backward is five times faster than that of indexing by a matrix.
    added = bias.flatten(1).index_select(1, relative).view(1, -1, *mask.shape[1:])
    added = added.masked_fill(~mask[:, None], -torch.inf).to(q.dtype)
    return F.scaled_dot_product_attention(*_cosine(q, k, logit_scale), v, added, scale=1.0)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor, blocks: BlockMask, offsets: Tensor, last: int
) -> Tensor:
    table = bias.flatten(1)
    queries, keys = _cosine(q, k, logit_scale)
    return flex_attention(
        *(queries, keys, v),
        score_mod=lambda score, b, h, i, j: score + table[h, offsets[i] - offsets[j] + last],
        block_mask=blocks,
        scale=1.0,
    )


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    """For each shape anew; an error, not the slow uncompiled path, where these are more than the compiler keeps."""
    return torch.compile(_flex, dynamic=False, fullgraph=True)
