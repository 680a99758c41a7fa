import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kgt import kernels
from kgt.attention import choose, forced, key_graph_attention
from kgt.attention.scores import relative_index
from kgt.errors import UserError
from kgt.graph import KeyGraph, key_graph
from kgt.threads import run_tasks

SIDES = [(8, 8), (4, 7), (1, 5), (1, 1)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def problem(
    sides: tuple[int, int], k: int, *, heads: int = 2, d: int = 6, windows: int = 3, regions: Tensor | None = None
) -> tuple[list[Tensor], KeyGraph]:
    """Leaves for q, k, v, logit scale and bias, and a graph."""
    generator = torch.Generator().manual_seed(sum(sides) + k)
    nodes = sides[0] * sides[1]
    q, key, v = (
        torch.randn(windows, nodes, heads, d, generator=generator).transpose(1, 2).requires_grad_() for _ in range(3)
    )
    logit_scale = torch.tensor([1.0, 2.3, 0.0][:heads]).requires_grad_()
    bias = (16 * torch.rand(heads, 2 * sides[0] - 1, 2 * sides[1] - 1, generator=generator)).requires_grad_()
    graph = key_graph(torch.randn(windows, nodes, 4, generator=generator), k, regions=regions)
    return [q, key, v, logit_scale, bias], graph


def attention(leaves: list[Tensor], graph: KeyGraph, name: str) -> Tensor:
    q, k, v, logit_scale, bias = leaves
    with forced(name):
        return key_graph_attention(q, k, v, graph, logit_scale, bias)


def results(leaves: list[Tensor], graph: KeyGraph, name: str) -> list[Tensor]:
    """The output and all gradients."""
    out = attention(leaves, graph, name)
    return [out, *torch.autograd.grad(out.square().sum(), leaves)]


def test_dense_is_the_formula() -> None:
    leaves, graph = problem((2, 3), 3)
    q, k, v, logit_scale, bias = (leaf.detach().double() for leaf in leaves)
    out = attention([q, k, v, logit_scale, bias], graph, "dense")
    for w in range(3):
        for h in range(2):
            for i in range(6):
                row = graph.indices[w, i, : graph.counts[w, i]].tolist()
                scores = torch.stack(
                    [
                        logit_scale[h].exp().clamp(max=100) * torch.cosine_similarity(q[w, h, i], k[w, h, j], dim=0)
                        + bias[h, i // 3 - j // 3 + 1, i % 3 - j % 3 + 2]
                        for j in row
                    ]
                )
                expected = scores.softmax(0) @ v[w, h, row]
                torch.testing.assert_close(out[w, h, i], expected, rtol=1e-4, atol=1e-5)  # ε in the norm


@pytest.mark.parametrize("name", ["sparse", "gather"])
@pytest.mark.parametrize("d", [6, 16, 30])
@pytest.mark.parametrize("sides", SIDES)
def test_every_implementation_gives_dense_values_and_gradients(name: str, d: int, sides: tuple[int, int]) -> None:
    for k in (1, 5, 64):
        leaves, graph = problem(sides, k, d=d)
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        expected = attention(exact, graph, "dense")
        gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
        wanted = torch.autograd.grad(expected, exact, gradient.double())
        out = attention(leaves, graph, name)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
        largest = max(want.abs().max() for want in wanted)  # a node with one neighbour passes on rounding alone
        for found, want in zip(torch.autograd.grad(out, leaves, gradient), wanted, strict=True):
            assert found.dtype == torch.float32
            assert (found - want).abs().max() <= 1e-5 * largest


def test_regions_with_fewer_nodes_than_k_agree_too() -> None:
    regions = torch.tensor([[0] * 20 + [1] * 3 + [-1] * 5])
    leaves, graph = problem((4, 7), 9, regions=regions)
    one, other = (torch.autograd.grad(attention(leaves, graph, n).sum(), leaves) for n in ("sparse", "dense"))
    for found, want in zip(one, other, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dense", "gather", "sparse"])
def test_the_logit_scale_has_a_ceiling_of_ln_100(name: str) -> None:
    (q, k, v, logit_scale, bias), graph = problem((3, 3), 4)
    with torch.no_grad():
        logit_scale[:] = torch.tensor([math.log(100), 2.0])
    out = attention([q, k, v, logit_scale, bias], graph, name)
    above = (logit_scale.detach() + torch.tensor([3.0, 0.0])).requires_grad_()
    again = attention([q, k, v, above, bias], graph, name)
    torch.testing.assert_close(again, out, rtol=1e-5, atol=1e-6)
    gradient = torch.autograd.grad(again.sum(), above)[0]
    assert gradient[0] == 0 != gradient[1]


def test_all_neighbours_is_plain_attention() -> None:
    leaves, graph = problem((4, 4), 16)
    q, k, v, logit_scale, bias = leaves
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in (q, k)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        unit[0] * logit_scale.exp().clamp(max=100)[:, None, None],
        unit[1],
        v,
        attn_mask=bias.flatten(1)[:, relative_index(bias.shape)],
        scale=1.0,
    )
    torch.testing.assert_close(attention(leaves, graph, "sparse"), expected, rtol=1e-4, atol=1e-4)


def test_attention_follows_a_permutation_of_the_nodes() -> None:
    # The position bias knows the order, so it is left out.
    leaves, graph = problem((3, 4), 5)
    q, k, v, logit_scale, bias = leaves
    order = torch.randperm(12)
    place = order.argsort()
    valid = torch.arange(graph.indices.shape[2]) < graph.counts[:, order, None]
    moved = place[graph.indices[:, order].long()].masked_fill(~valid, 0).to(torch.int16)
    permuted = KeyGraph(moved, graph.counts[:, order])
    for name in ("dense", "sparse"):
        out = attention([q, k, v, logit_scale, bias * 0], graph, name)
        again = attention([*(x[:, :, order] for x in (q, k, v)), logit_scale, bias * 0], permuted, name)
        torch.testing.assert_close(again, out[:, :, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dense", "gather"])
def test_gradients_in_float64(name: str, threads: None) -> None:
    torch.set_num_threads(1)  # thousands of calls too small to share
    leaves, graph = problem((2, 3), 3, d=3, windows=2)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda *leaves: attention(list(leaves), graph, name), exact)


def test_the_sparse_operator_is_sound_for_torch() -> None:
    leaves, graph = problem((2, 3), 3)
    q, k, v, scale, bias = leaves
    operator = torch.ops.kgt.sparse_attention.default
    for table in (bias, bias.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()):
        torch.library.opcheck(operator, (q, k, v, graph.indices, graph.counts, scale, table), raise_exception=True)


def test_sparse_is_deterministic_on_any_number_of_threads(threads: None) -> None:
    leaves, graph = problem((4, 4), 5, windows=40)

    def run() -> list[Tensor]:
        out = attention(leaves, graph, "sparse")
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    torch.set_num_threads(1)
    alone = run()
    for count in (2, 3, 2):
        torch.set_num_threads(count)
        assert all(torch.equal(one, other) for one, other in zip(alone, run(), strict=True))


_TRAINED = """
import os, sys
os.environ["NUMBA_CACHE_DIR"] = sys.argv[1]
import torch
from kgt.config import preset
from kgt.model import KGT
torch.manual_seed(1)
torch.set_num_threads(1)
model = KGT(preset("kgt-tiny", "denoise"))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
for k in (384, 64, 192, 512, 256, 64, 384, 128):
    loss = (model(torch.rand(2, 3, 32, 32), k) - 0.5).abs().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(sum(weight.double().sum().item() for weight in model.parameters()).hex())
"""


@pytest.mark.slow
def test_kernels_compiled_anew_compute_what_those_from_the_disk_do(run_script: object, tmp_path: Path) -> None:
    """To the last bit: a run goes on exactly on a machine that has compiled nothing yet."""
    cold, warm = (run_script(_TRAINED, str(tmp_path / "cache")) for _ in range(2))
    assert cold.returncode == 0, cold.stderr
    assert cold.stdout == warm.stdout


def test_sparse_may_be_called_from_several_threads_at_once(threads: None) -> None:
    torch.set_num_threads(2)
    leaves, graph = problem((4, 4), 5, windows=20)
    expected = torch.autograd.grad(attention(leaves, graph, "sparse").sum(), leaves)
    agree = []

    def work() -> None:
        for _ in range(5):
            mine = [leaf.detach().requires_grad_() for leaf in leaves]
            found = torch.autograd.grad(attention(mine, graph, "sparse").sum(), mine)
            agree.append(all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert agree == [True] * 20


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_task_runs_once(count: int, threads: None) -> None:
    torch.set_num_threads(count)
    ran = []
    run_tasks(lambda task, name: ran.append((task, name)), 17, "x")
    assert sorted(ran) == [(task, "x") for task in range(17)]


def test_sparse_windows_of_the_papers_size_are_dense() -> None:
    leaves, graph = problem((32, 32), 60, heads=1, d=30, windows=1)
    for exact, ours in zip(*(results(leaves, graph, name) for name in ("dense", "sparse")), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)


def test_sparse_places_reach_across_windows_of_4096_nodes() -> None:
    leaves, graph = problem((64, 64), 3, heads=1, d=6, windows=1)
    with torch.no_grad():
        torch.testing.assert_close(attention(leaves, graph, "sparse"), attention(leaves, graph, "dense"))


def test_sparse_takes_any_memory_layout_and_number_of_columns() -> None:
    leaves, graph = problem((4, 7), 5, heads=2, d=6)
    expected = results(leaves, graph, "sparse")
    spread = [torch.stack([x.detach()] * 2, -1)[..., 0].requires_grad_() for x in leaves[:3]]
    cut = KeyGraph(graph.indices[..., :5], graph.counts.mT.contiguous().mT)
    for one, other in zip(results([*spread, *leaves[3:]], cut, "sparse"), expected, strict=True):
        assert torch.equal(one, other)


def test_the_order_of_a_nodes_neighbours_does_not_matter() -> None:
    leaves, graph = problem((5, 8), 16)
    shuffled = KeyGraph(graph.indices[..., torch.randperm(16)], graph.counts)
    for one, other in zip(results(leaves, shuffled, "sparse"), results(leaves, graph, "sparse"), strict=True):
        largest = float(other.detach().abs().max())  # in another order, small sums are as far off as large ones
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, largest))


def test_sparse_heads_are_independent() -> None:
    leaves, graph = problem((4, 7), 5, heads=3)
    turned = [x.detach().flip(1 if x.ndim == 4 else 0) for x in leaves]
    assert torch.equal(attention(turned, graph, "sparse").flip(1), attention(leaves, graph, "sparse"))


@pytest.mark.parametrize("name", ["dense", "gather", "sparse"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_in_its_row_and_stays_in_its_window_and_head(name: str, value: float) -> None:
    leaves, graph = problem((4, 5), 16, windows=2)
    clean = attention(leaves, graph, name)
    for position in range(3):
        changed = [x.detach().clone().requires_grad_() for x in leaves]
        with torch.no_grad():
            changed[position][0, 1, 3, 2] = value
        out = attention(changed, graph, name)
        assert not torch.isfinite(out[0, 1, 3]).all()
        kept = torch.ones(2, 2, dtype=torch.bool)
        kept[0, 1] = False
        assert torch.equal(out[kept], clean[kept])
        gradients = torch.autograd.grad(out.square().sum(), changed)
        assert all(torch.isfinite(x[kept]).all() for x in gradients[:3])
        assert not torch.isfinite(gradients[position][0, 1]).all()
    for position in (3, 4):
        changed = [x.detach().clone() for x in leaves]
        changed[position][1] = math.nan
        out = attention(changed, graph, name)
        assert not torch.isfinite(out[:, 1]).any()
        assert torch.equal(out[:, 0], clean[:, 0])


def test_extreme_scores_stay_finite() -> None:
    leaves, graph = problem((4, 4), 5)
    q, k, v, logit_scale, bias = leaves
    for factor in (0.0, 1e-6, 1e6):
        scaled = [(factor * x).detach().requires_grad_() for x in (q, k, v)]
        out = attention([*scaled, logit_scale, bias], graph, "sparse")
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), scaled))


@pytest.mark.parametrize("name", ["sparse", "dense"])
def test_low_precision_is_computed_in_float32(name: str) -> None:
    leaves, graph = problem((4, 4), 5)
    low = [leaf.detach().bfloat16() for leaf in leaves]
    out = attention(low, graph, name)
    assert out.dtype == torch.bfloat16
    exact = attention([leaf.double() for leaf in low], graph, "dense")
    assert (out.double() - exact).abs().max() <= 1e-2 * exact.abs().max()


def test_the_dispatcher_says_what_it_chose_and_why() -> None:
    assert choose("cpu", torch.float32, 1024, 64, 30).name == "sparse"
    assert "64 of 1024" in choose("cpu", torch.float32, 1024, 64, 30).reason
    assert choose("cpu", torch.float64, 1024, 64, 30).name == "dense"
    assert {choose("cpu", torch.float32, 64, k, 30).name for k in (1, 64)} == {"sparse"}
    assert choose("cpu", torch.float32, 256, 256, 30).name == "sparse"
    with forced("gather"):
        assert choose("cpu", torch.float32, 1024, 64, 30).reason == "forced"
    assert choose("cpu", torch.float32, 1024, 64, 30).name == "sparse"


def test_a_gpu_gets_the_triton_kernels_where_they_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_INSTALLED", True)
    assert [choose("cuda", torch.bfloat16, 1024, k, 64).name for k in (64, 512)] == ["triton"] * 2
    assert "gather about 58% of 1024 nodes, masked to 64" in choose("cuda", torch.bfloat16, 1024, 64, 64).reason
    assert "walk all of 1024 nodes, masked to 512" in choose("cuda", torch.bfloat16, 1024, 512, 64).reason
    for dtype, width, reason in ((torch.float64, 32, "float64"), (torch.float32, 65, "up to 64 channels, not 65")):
        choice = choose("cuda", dtype, 1024, 64, width)
        assert choice.name == "dense"
        assert reason in choice.reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "capability 8.0" in choose("cuda", torch.float32, 1024, 64, 32).reason
    monkeypatch.setattr(kernels, "_INSTALLED", False)
    assert "not installed" in choose("cuda", torch.float32, 1024, 64, 32).reason


def test_a_forced_choice_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown attention 'sparce': did you mean 'sparse'"), forced("sparce"):
        pass
    with forced("sparse"):
        with pytest.raises(UserError, match="force 'dense' for float64"):
            choose("cpu", torch.float64, 64, 8, 32)
        with pytest.raises(UserError, match="on the CPU alone, not on cuda"):
            choose("cuda", torch.float32, 64, 8, 32)
    monkeypatch.setattr(kernels, "_INSTALLED", True)
    leaves, graph = problem((3, 4), 5)
    with pytest.raises(UserError, match="'triton' cannot run here: Triton does not run on cpu"):
        attention(leaves, graph, "triton")
    monkeypatch.setattr(kernels, "_INSTALLED", False)
    with pytest.raises(UserError, match="'triton' cannot run here: Triton is not installed"):
        attention(leaves, graph, "triton")


def test_arguments_that_do_not_fit_are_named() -> None:
    leaves, graph = problem((3, 4), 5)
    names = ("q", "k", "v", "logit_scale", "bias")
    given = dict(zip(names, (leaf.detach() for leaf in leaves), strict=True))
    q, bias = given["q"], given["bias"]
    other = problem((4, 4), 5)[1]
    for name, value, reason in (
        ("q", q[0], "must be (windows, heads, nodes, channels)"),
        ("q", q[:0], "must not be empty"),
        ("q", q.int(), "floating"),
        ("k", q[..., :3], "q's shape"),
        ("k", q.double(), "q's type"),
        ("v", q.to("meta"), "q's device"),
        ("graph", other, "windows of 16 nodes, q of 3 windows of 12"),
        ("logit_scale", torch.zeros(3), "one a head"),
        ("logit_scale", torch.zeros(2, dtype=torch.int32), "floating"),
        ("bias", bias[:1], "2·rows"),
        ("bias", bias[:, 1:], "2·rows"),
        ("bias", torch.zeros(2, 7, 7), "windows of 4 × 4 nodes, q has 12"),
    ):
        arguments = {**given, "graph": graph, name: value}
        if (name, reason) == ("q", "floating"):
            arguments |= {"k": value, "v": value}
        else:
            arguments |= {n: arguments["q"] for n in ("k", "v") if name == "q"}
        with pytest.raises(ValueError, match=rf"^{name} .*{re.escape(reason)}"):
            key_graph_attention(**arguments)
