import math

import pytest
import torch

from kgt import layers as layers_module
from kgt.config import KGTConfig
from kgt.graph import key_graph
from kgt.layers import Attention, KGTLayer, PositionBias, Stage

CONFIG = KGTConfig("columnar", 8, (2,), (2,), window=4)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Weights away from their start, where norms begin at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.mark.parametrize(("dim", "heads", "parameters"), [(180, 6, 265_794), (64, 2, 36_034), (512, 16, 2_112_528)])
def test_a_layer_has_the_papers_parameters(dim: int, heads: int, parameters: int) -> None:
    with torch.device("meta"):
        layer = KGTLayer(dim, heads, KGTConfig("columnar", dim, (1,), (heads,)))
    assert sum(p.numel() for p in layer.parameters()) == parameters


def test_position_bias_is_the_formula_of_swin_v2() -> None:
    position = randomised(PositionBias(3, 8))
    bias = position((8, 8))
    assert bias.shape == (3, 15, 15)
    for dy, dx in ((0, 0), (7, -7), (-3, 5)):
        offset = torch.tensor([math.copysign(math.log2(abs(8 * d / 7) + 1) / 3, d) for d in (dy, dx)])
        hidden = torch.relu(position.weight1 @ offset + position.bias1)
        expected = 16 * torch.sigmoid(position.weight2 @ hidden)
        torch.testing.assert_close(bias[:, dy + 7, dx + 7], expected, rtol=1e-4, atol=1e-4)


def test_a_smaller_window_reads_the_middle_of_the_same_table() -> None:
    position = randomised(PositionBias(2, 8))
    torch.testing.assert_close(position((3, 5)), position((8, 8))[:, 5:10, 3:12])


def test_position_bias_stays_in_float32_under_bfloat16() -> None:
    position = randomised(PositionBias(2, 8)).bfloat16()
    assert position((4, 4)).dtype == torch.float32
    expected = position((4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(position((4, 4)), expected)


def test_a_fresh_layer_is_the_identity_and_learns() -> None:
    layer = KGTLayer(8, 2, CONFIG)
    x = torch.randn(2, 16, 8)
    graph = key_graph(x, 4)
    out = layer(x, graph, (4, 4))
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert layer.norm1.weight.grad.abs().min() > 0


def test_attention_mixes_a_node_with_its_neighbours_alone() -> None:
    attention = randomised(Attention(8, 2, 4))
    x = torch.randn(1, 16, 8, requires_grad=True)
    graph = key_graph(x, 3)
    attention(x, graph, (4, 4))[0, 5].sum().backward()
    touched = x.grad[0].abs().sum(-1) > 0
    assert torch.equal(touched, graph.mask()[0, 5])


def test_a_stage_makes_one_graph_for_all_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    made, used = [], []
    original = layers_module.key_graph
    monkeypatch.setattr(layers_module, "key_graph", lambda *a, **b: made.append(original(*a, **b)) or made[-1])
    attend = layers_module.key_graph_attention
    monkeypatch.setattr(
        layers_module,
        "key_graph_attention",
        lambda q, k, v, graph, *a: used.append(graph) or attend(q, k, v, graph, *a),
    )
    stage = randomised(Stage(8, 3, 2, CONFIG, shifted=True))
    stage(torch.randn(1, 8, 9, 6), 256)
    assert len(made) == 1
    assert used == made * 3


def test_padding_and_the_far_side_of_a_wrap_do_not_reach_a_pixel() -> None:
    stage = randomised(Stage(8, 1, 2, CONFIG, shifted=True))
    x = torch.randn(1, 8, 10, 6, requires_grad=True)
    stage(x, 1024)[0, :, 0, 0].sum().backward()
    reached = x.grad[0].abs().sum(0) > 0
    # Windows of 4 shifted by 2, then a 3×3 convolution: rows and columns 0–1 of the corner and the window beside it.
    assert reached[:6, :6].any()
    assert not reached[6:].any()


def test_shifted_stages_join_what_plain_ones_part() -> None:
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    reach = {}
    for shifted in (False, True):
        stage = randomised(Stage(8, 1, 2, CONFIG, shifted=shifted))
        reach[shifted] = torch.autograd.grad(stage(x, 1024)[0, :, 1, 1].sum(), x)[0][0].abs().sum(0) > 0
    assert not reach[False][5:].any()
    assert reach[True][5, 5]
    assert not reach[True][6:].any()
