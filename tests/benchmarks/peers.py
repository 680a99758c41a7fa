"""Other ways to compute attention, under the conditions of ours: cosine attention of the same q, k, v and scale.

What the graph alone decides (the N × N mask, the block mask) is made before the clock starts, as our graph is; what a
layer owns (the scaled unit vectors, the bias at every pair of nodes) is made inside. Attention to all nodes without
bias is no cosine attention: its scaled unit vectors are made before, too.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from kgt.attention import choose, forced, key_graph_attention
from kgt.attention.operator import MAX_LOGIT_SCALE
from kgt.attention.scores import node_offsets, relative_index, unit
from kgt.graph import KeyGraph
from tests.benchmarks.compiling import compiled
from tests.benchmarks.features import Features
from tests.benchmarks.goals import PASSES


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

    attend: the output (W, h, N, d) of the leaves, those of the problem where it computes the same. trains: whether it
    has a backward pass here. version: what tells apart those of one name, the fastest of which counts. backend: that of
    scaled_dot_product_attention which such leaves take, in words.
    """

    name: str
    attend: Callable[..., Tensor]
    leaves: tuple[Tensor, ...]
    same: bool = True
    trains: bool = True
    version: str = ""
    backend: Callable[..., str] | None = None

    def described(self, leaves: Sequence[Tensor]) -> str:
        """Its version and backend."""
        return ", ".join(filter(None, (self.version, self.backend(*leaves) if self.backend else "")))


def problem(found: Features, graph: KeyGraph, device: torch.device, dtype: torch.dtype) -> Problem:
    """q, k and v in `dtype`; scale and bias stay in float32, as they do under autocast."""
    tensors = [x.to(device, dtype) for x in (found.q, found.k, found.v)]
    tensors += [found.logit_scale.to(device), found.bias.to(device)]
    windows, heads, nodes, width = found.q.shape
    grad = torch.randn(windows, nodes, heads, width, generator=torch.Generator().manual_seed(1))
    return Problem(tuple(x.detach().requires_grad_() for x in tensors), graph, grad.to(device, dtype).transpose(1, 2))


def forward(peer: Peer) -> Callable[[], object]:
    """A call that runs it without gradients."""
    arguments = detached(peer)

    def run() -> None:
        with torch.no_grad():
            peer.attend(*arguments)

    return run


def both(peer: Peer, grad: Tensor) -> Callable[[], object]:
    """A call that runs it and the gradients of all its leaves, `grad` being that of the output."""
    return lambda: torch.autograd.grad(peer.attend(*peer.leaves), peer.leaves, grad)


def passes(given: Problem) -> dict[str, Callable[[Peer], Callable[[], object]]]:
    """What makes a peer's call, by `PASSES`."""
    return dict(zip(PASSES, (forward, lambda peer: both(peer, given.grad)), strict=True))


def detached(peer: Peer) -> list[Tensor]:
    """Its leaves, without gradients: FlexAttention looks at requires_grad even where none are recorded."""
    return [x.detach() for x in peer.leaves]


def implementations(given: Problem) -> list[Peer]:
    """Ours, each forced."""
    names = ("dense", "gather", "triton") if given.device.type == "cuda" else ("dense", "gather", "sparse")
    return [Peer(name, functools.partial(_forced, name, given.graph), given.leaves) for name in names]


def peers(given: Problem) -> list[Peer]:
    """PyTorch's own: with the same bias and graph, and scaled_dot_product_attention over all nodes without bias."""
    return [*_masked(given), *_unmasked(given)]


def _masked(given: Problem) -> Iterator[Peer]:
    mask, bias = given.graph.mask(), given.leaves[4]
    relative = relative_index(bias.shape, given.device).flatten()
    backend = functools.partial(_backend_masked, mask, relative)
    for version, attend in {"eager": _sdpa_masked, "compiled": _compiled_masked()}.items():
        attend = functools.partial(attend, mask, relative)
        yield Peer("SDPA masked", attend, given.leaves, version=version, backend=backend)
    blocks = create_block_mask(lambda b, h, i, j: mask[b, i, j], len(mask), None, *mask.shape[1:], device=given.device)
    offsets = node_offsets(bias.shape, given.device)
    flex = functools.partial(_compiled_flex(), blocks=blocks, offsets=offsets, last=int(offsets[-1]))
    # On the CPU it has no backward.
    yield Peer("FlexAttention", flex, given.leaves, trains=given.device.type == "cuda")


def _unmasked(given: Problem) -> Iterator[Peer]:
    """By every backend that runs here; says which do not, and why."""
    q, k, v, logit_scale, _ = (x.detach() for x in given.leaves)
    leaves = tuple(x.requires_grad_() for x in (*_cosine(q, k, logit_scale), v))
    small = tuple(x[:1].detach().requires_grad_() for x in leaves)
    for backend in (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.MATH,
    ):
        name, attend = f"SDPA unmasked, {_short(backend)}", functools.partial(_sdpa_unmasked, backend)
        with warnings.catch_warnings(record=True) as reasons:
            warnings.simplefilter("always")
            try:
                both(Peer(name, attend, small), given.grad[:1])()
            except RuntimeError as error:
                if "No available kernel" not in str(error) and "No viable backend" not in str(error):
                    raise
                lines = [str(reason.message).splitlines()[0] for reason in reasons] or [str(error).splitlines()[0]]
                _say_once(f"without {name}: {' '.join(dict.fromkeys(lines))}")
                continue
        yield Peer(name, attend, leaves, same=False)


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def _short(backend: SDPBackend) -> str:
    return backend.name.removesuffix("_ATTENTION").lower()


def _forced(name: str, graph: KeyGraph, q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor) -> Tensor:
    with forced(name):
        return key_graph_attention(q, k, v, graph, logit_scale, bias)


def _cosine(q: Tensor, k: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose product is scale · cosine, in their own type."""
    scale = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()[:, None, None]
    return (unit(q.float()) * scale).to(q.dtype), unit(k.float()).to(k.dtype)


def _sdpa_unmasked(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def _sdpa_masked(
    mask: Tensor, relative: Tensor, q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor
) -> Tensor:
    added = _added(mask, relative, bias).to(q.dtype)
    return F.scaled_dot_product_attention(*_cosine(q, k, logit_scale), v, added, scale=1.0)


def _backend_masked(
    mask: Tensor, relative: Tensor, q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor
) -> str:
    added = _added(mask, relative, bias).to(q.dtype)
    # PyTorch has no public way to ask; this is what its dispatcher calls, compiled or not.
    return _short(SDPBackend(torch._fused_sdp_choice(*_cosine(q, k, logit_scale), v, added, scale=1.0)))


def _added(mask: Tensor, relative: Tensor, bias: Tensor) -> Tensor:
    """(W, h, N, N): the bias of neighbours, -inf elsewhere."""
    # index_select: its backward is five times faster than that of indexing by a matrix.
    pairs = bias.flatten(1).index_select(1, relative).view(1, -1, *mask.shape[1:])
    return pairs.masked_fill(~mask[:, None], -torch.inf)


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
    return compiled(_flex)


@functools.cache
def _compiled_masked() -> Callable[..., Tensor]:
    return compiled(_sdpa_masked)
