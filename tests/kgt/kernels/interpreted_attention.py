"""The attention kernels against the float64 reference. Run by `test_interpreted.py`; on a GPU it can be run by itself.

Errors are held against those of a dense computation in the same precision: tensors rounded to the type wherever the
kernels' products take them, sums and softmax in float32.
"""

import math

import pytest
import torch
from torch import Tensor

from kgt.attention import forced, key_graph_attention
from kgt.attention.flash import _forward
from kgt.attention.scores import relative_index, unit
from kgt.config import KGTConfig
from kgt.graph import KeyGraph, key_graph
from kgt.layers import Stage
from kgt.ordering import bisection_order
from kgt.tiles import pack_bits, tile_graph, transposed

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def problem(
    sides: tuple[int, int],
    k: int,
    d: int,
    *,
    dtype: torch.dtype = torch.float32,
    heads: int = 2,
    windows: int = 1,
    regions: Tensor | None = None,
) -> tuple[list[Tensor], KeyGraph]:
    """Leaves for q, k, v (views of one tensor, as a projection makes them), logit scale and bias, and a graph."""
    generator = torch.Generator().manual_seed(sum(sides) + k + d)
    nodes = sides[0] * sides[1]
    packed = torch.randn(windows, nodes, 3, heads, d, generator=generator).to(DEVICE, dtype)
    q, key, v = (x.transpose(1, 2).requires_grad_() for x in packed.unbind(2))
    logit_scale = torch.tensor([1.0, 2.3, 0.5][:heads], device=DEVICE).requires_grad_()
    bias = 4 * torch.rand(heads, 2 * sides[0] - 1, 2 * sides[1] - 1, generator=generator)
    features = torch.randn(windows, nodes, 4, generator=generator).to(DEVICE)
    return [q, key, v, logit_scale, bias.to(DEVICE).requires_grad_()], key_graph(features, k, regions=regions)


def attention(leaves: list[Tensor], graph: KeyGraph, name: str = "triton") -> Tensor:
    q, k, v, logit_scale, bias = leaves
    with forced(name):
        return key_graph_attention(q, k, v, graph, logit_scale, bias)


def dense_rounded(leaves: list[Tensor], graph: KeyGraph) -> Tensor:
    """Dense attention whose products take tensors of q's type; the casts round the gradients too."""
    q, k, v, logit_scale, bias = leaves

    def rounded(x: Tensor) -> Tensor:
        return x.to(q.dtype).float()

    cosines = rounded(unit(q.float())) @ rounded(unit(k.float())).mT
    scores = logit_scale.exp()[:, None, None] * cosines + bias.flatten(1)[:, relative_index(bias.shape, DEVICE)]
    weights = scores.masked_fill(~graph.mask()[:, None], -torch.inf).softmax(-1)
    return rounded(rounded(weights) @ v.float())


def values_and_gradients(out: Tensor, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    return [x.detach().double() for x in (out, *torch.autograd.grad(out, leaves, grad.to(out.dtype)))]


def compare(leaves: list[Tensor], graph: KeyGraph) -> None:
    """The kernels are at most twice as far from the float64 reference as rounded dense attention, gradients too.

    dq may be farther at all because it takes do · o of the rounded output, as in every flash attention.
    """
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    reference = attention(exact, graph, "dense")
    grad = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, leaves[0].dtype)
    wanted = values_and_gradients(reference, exact, grad)
    found = values_and_gradients(attention(leaves, graph), leaves, grad)
    rounded = values_and_gradients(dense_rounded(leaves, graph), leaves, grad)
    scale = max(want.norm() for want in wanted[1:])  # a node with one neighbour passes on rounding alone
    for name, want, ours, theirs in zip(("out", "q", "k", "v", "scale", "bias"), wanted, found, rounded, strict=True):
        size = want.norm() if name == "out" else scale
        allowed = 2 * (theirs - want).norm() + 1e-6 * size
        assert (ours - want).norm() <= allowed, name


@pytest.mark.parametrize(
    ("sides", "k", "d"),
    [((4, 7), 5, 30), ((4, 8), 16, 16), ((2, 17), 20, 32), ((1, 5), 9, 48), ((7, 3), 1, 64), ((1, 1), 1, 16)],
)
def test_float32_is_as_exact_as_dense(sides: tuple[int, int], k: int, d: int) -> None:
    compare(*problem(sides, k, d))


@pytest.mark.parametrize(("dtype", "d"), [(torch.bfloat16, 30), (torch.float16, 64)])
def test_narrow_types_are_as_exact_as_dense_in_the_same_type(dtype: torch.dtype, d: int) -> None:
    compare(*problem((4, 9), 12, d, dtype=dtype, windows=2))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("d", [6, 16, 30, 32, 48, 64])
@pytest.mark.parametrize(("sides", "k"), [((8, 8), 1), ((5, 13), 30), ((2, 64), 64), ((1, 100), 500), ((20, 1), 9)])
def test_every_type_width_and_shape(sides: tuple[int, int], k: int, d: int, dtype: torch.dtype) -> None:
    compare(*problem(sides, k, d, dtype=dtype))


def test_regions_leave_rows_with_fewer_neighbours_than_k() -> None:
    regions = torch.tensor([[0] * 20 + [1] * 3 + [-1] * 5], device=DEVICE)
    compare(*problem((4, 7), 9, 30, regions=regions))


@pytest.mark.parametrize(
    ("sides", "k", "d", "dtype"), [((5, 14), 7, 16, torch.float32), ((2, 33), 12, 30, torch.bfloat16)]
)
def test_gathered_tiles_in_any_order_give_the_same(sides: tuple[int, int], k: int, d: int, dtype: torch.dtype) -> None:
    leaves, graph = problem(sides, k, d, dtype=dtype)
    order = torch.rand(1, graph.nodes, generator=torch.Generator().manual_seed(0)).argsort(1).to(DEVICE, torch.int16)
    tiled = tile_graph(pack_bits(graph.indices, graph.valid()), order)
    compare(leaves, KeyGraph(graph.indices, graph.counts, tiled))


def test_bits_are_the_mask_and_transposed_its_transpose() -> None:
    _, graph = problem((7, 13), 20, 6)
    bits, mask = pack_bits(graph.indices, graph.valid()), graph.mask()
    for words, wanted in ((bits, mask), (transposed(bits), mask.mT)):
        assert words.shape == (1, 91, 4)
        unpacked = ((words[..., None] >> torch.arange(32, device=DEVICE)) & 1).flatten(2)
        assert torch.equal(unpacked[..., :91].bool(), wanted)
        assert not unpacked[..., 91:].any()


def test_all_neighbours_is_scaled_dot_product_attention() -> None:
    leaves, graph = problem((5, 8), 40, 16)
    q, k, v, logit_scale, bias = leaves
    expected = torch.nn.functional.scaled_dot_product_attention(
        unit(q) * logit_scale.exp()[:, None, None],
        unit(k),
        v,
        attn_mask=bias.flatten(1)[:, relative_index(bias.shape, DEVICE)],
        scale=1.0,
    )
    torch.testing.assert_close(attention(leaves, graph), expected, rtol=1e-5, atol=1e-5)


def test_heads_and_windows_are_independent_and_nodes_may_be_renamed() -> None:
    leaves, graph = problem((4, 7), 5, 16, windows=2)
    q, k, v, logit_scale, bias = (leaf.detach() for leaf in leaves)
    out = attention([q, k, v, logit_scale, bias], graph)
    assert torch.equal(
        attention([*(x.flip(1) for x in (q, k, v)), logit_scale.flip(0), bias.flip(0)], graph), out.flip(1)
    )
    flipped = KeyGraph(graph.indices.flip(0), graph.counts.flip(0))
    assert torch.equal(attention([*(x.flip(0) for x in (q, k, v)), logit_scale, bias], flipped), out.flip(0))
    order = torch.randperm(28, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    moved = order.argsort()[graph.indices[:, order].long()].masked_fill(~graph.valid()[:, order], 0).to(torch.int16)
    renamed = KeyGraph(moved, graph.counts[:, order])
    out = attention([q, k, v, logit_scale, 0 * bias], graph)  # the position bias knows the order
    again = attention([*(x[:, :, order] for x in (q, k, v)), logit_scale, 0 * bias], renamed)
    torch.testing.assert_close(again, out[:, :, order], rtol=1e-5, atol=1e-6)


def test_the_order_of_a_rows_neighbours_is_of_no_consequence() -> None:
    leaves, graph = problem((4, 7), 8, 16)
    shuffled = KeyGraph(graph.indices[..., torch.randperm(8)], graph.counts)
    assert torch.equal(attention(leaves, shuffled), attention(leaves, graph))


def test_two_runs_give_the_same_bits_with_a_prepared_graph_or_without() -> None:
    leaves, graph = problem((3, 4), 5, 30, dtype=torch.bfloat16)
    bits = pack_bits(graph.indices, graph.valid())
    runs = []
    for tiled in (None, tile_graph(bits), tile_graph(bits, backward=False), None):
        out = attention(leaves, KeyGraph(graph.indices, graph.counts, tiled))
        runs.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


def test_any_memory_layout_gives_the_same_bits() -> None:
    leaves, graph = problem((3, 4), 5, 16)
    out = attention(leaves, graph)
    grads = torch.autograd.grad(out.sum(), leaves)  # the gradient of a sum has stride zero
    for change in (lambda x: x.contiguous(), lambda x: x.mT.contiguous().mT, lambda x: x.repeat(1, 1, 1, 2)[..., :16]):
        others = [*(change(x.detach()).requires_grad_() for x in leaves[:3]), *leaves[3:]]
        again = attention(others, graph)
        assert torch.equal(again, out)
        for found, want in zip(torch.autograd.grad(again.sum(), others), grads, strict=True):
            assert torch.equal(found, want)


def test_extreme_inputs_stay_finite() -> None:
    (q, k, v, _, bias), graph = problem((4, 4), 5, 16)
    ceiling = torch.full((2,), math.log(100), device=DEVICE)
    for factor in (0.0, 1e6):
        scaled = [(factor * x).detach().requires_grad_() for x in (q, k, v)]
        out = attention([*scaled, ceiling, bias], graph)
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), scaled))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_window_and_head(value: float) -> None:
    leaves, graph = problem((4, 4), 5, 16, windows=2)
    clean = attention(leaves, graph)
    for x in leaves[:3]:
        changed = [y.detach().clone() for y in leaves]
        changed[[y is x for y in leaves].index(True)][0, 1, 3, 2] = value
        out = attention(changed, graph)
        assert not torch.isfinite(out[0, 1, 3]).all()
        out[0, 1] = clean[0, 1]
        assert torch.equal(out, clean)


def test_the_operator_is_sound_for_torch() -> None:
    (q, k, v, scale, bias), graph = problem((2, 3), 3, 6)
    bits = pack_bits(graph.indices, graph.valid())
    for tiled in (tile_graph(bits), tile_graph(bits, bisection_order(torch.rand(1, 6, 3, device=DEVICE), 64))):
        arguments = (q, k, v, scale, bias, tiled.bits, tiled.queries.tensors(), tiled.keys.tensors())
        torch.library.opcheck(_forward, arguments)


class Attend(torch.nn.Module):
    def __init__(self, graph: KeyGraph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *leaves: Tensor) -> Tensor:
        return key_graph_attention(*leaves[:3], self.graph, *leaves[3:])


def test_it_compiles_without_a_break_and_exports() -> None:
    leaves, graph = problem((2, 3), 3, 6)
    module = Attend(graph)
    with forced("triton"):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        found, wanted = (torch.autograd.grad(f(*leaves).square().sum(), leaves) for f in (compiled, module))
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
        exported = torch.export.export(module, tuple(leaf.detach() for leaf in leaves))
    called = {str(node.target) for module in exported.graph_module.modules() for node in module.graph.nodes}
    assert "kgt.flash_attention.default" in called
    assert torch.equal(exported.module()(*leaves), attention(leaves, graph))


def test_autocast_has_no_say() -> None:
    leaves, graph = problem((2, 3), 3, 6)
    wanted = attention(leaves, graph)
    with torch.autocast(DEVICE, torch.bfloat16):
        out = attention(leaves, graph)
        assert torch.equal(out, wanted)
        found = torch.autograd.grad(out.sum(), leaves)
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in found)


def test_a_stage_of_the_model_is_that_of_the_reference() -> None:
    torch.manual_seed(0)
    config = KGTConfig("columnar", 12, (2,), (2,), window=4)
    stage = Stage(12, 1, 2, config, shifted=True).to(DEVICE)
    torch.nn.init.normal_(stage.layers[0].norm1.weight)
    x = torch.randn(1, 12, 6, 4, device=DEVICE)
    results = []
    for name in ("triton", "dense"):
        with forced(name):
            out = stage(x, 256)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(stage.parameters()))])
    for found, want in zip(*results, strict=True):
        assert (found - want).norm() <= 1e-4 * want.norm() + 1e-6
