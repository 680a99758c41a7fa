import dataclasses
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kgt.layers
from kgt import kernels
from kgt.attention import forced
from kgt.attention.dispatch import implementation
from kgt.baselines import demosaic_malvar, upsample_bicubic
from kgt.config import RANDOM_TOPK, KGTConfig, neighbours, preset
from kgt.model import KGT
from kgt.tasks import TASKS
from kgt.tiles import worth_gathering

U = KGTConfig("u", 8, (1, 2, 1), (1, 2, 2), refinement=1, window=4)
COLUMNAR = KGTConfig("columnar", 8, (1, 1), (2, 2), upsampler=8, window=4, scale=2, baseline="bicubic")
DEMOSAIC = KGTConfig("u", 8, (1, 1), (1, 2), window=4, in_channels=1, baseline="malvar")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The models here are too small to share among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(config: KGTConfig) -> KGT:
    """A model with weights away from their start, where it returns its baseline."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KGT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    ("name", "task", "scale", "parameters"),
    [
        ("kgt-s", "sr", 2, 11_869_991),
        ("kgt-s", "sr", 3, 12_054_631),
        ("kgt-s", "sr", 4, 12_017_703),
        ("kgt-b", "sr", 2, 19_895_783),
        ("kgt-b", "sr", 3, 20_080_423),
        ("kgt-b", "sr", 4, 20_043_495),
        ("kgt-u", "denoise", 1, 25_819_127),
    ],
)
def test_parameter_counts_are_the_papers(name: str, task: str, scale: int, parameters: int) -> None:
    with torch.device("meta"):
        model = KGT(preset(name, task, scale))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("task", TASKS)
def test_tiny_models_are_tiny(task: str) -> None:
    for scale in (2, 3, 4) if task == "sr" else (1,):
        with torch.device("meta"):
            model = KGT(preset("kgt-tiny", task, scale))
        assert sum(p.numel() for p in model.parameters()) < 500_000


@pytest.mark.parametrize(
    ("config", "baseline"),
    [
        (U, lambda x: x),
        (COLUMNAR, lambda x: upsample_bicubic(x, 2)),
        (DEMOSAIC, demosaic_malvar),
    ],
)
def test_a_fresh_model_is_its_baseline_and_every_weight_learns(config: KGTConfig, baseline) -> None:
    x = torch.rand(2, config.in_channels, 13, 10)
    fresh = KGT(config)
    assert torch.equal(fresh(x), baseline(x))
    model = trained(config)
    (model(x) - baseline(x)).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


@given(st.integers(1, 23), st.integers(1, 23))
@settings(max_examples=15)
def test_every_size_is_restored(height: int, width: int) -> None:
    for config in (U, COLUMNAR, DEMOSAIC):
        out = SIZES[config](torch.rand(1, config.in_channels, height, width))
        assert out.shape == (1, 3, height * config.scale, width * config.scale)
        assert torch.isfinite(out).all()


SIZES = {config: trained(config).eval().requires_grad_(False) for config in (U, COLUMNAR, DEMOSAIC)}


@pytest.mark.parametrize("config", [U, COLUMNAR])
def test_sparse_and_dense_models_agree(config: KGTConfig) -> None:
    x, model = torch.rand(2, 3, 11, 14), trained(config)
    results = []
    for name in ("sparse", "dense"):
        model.zero_grad()
        with forced(name):
            out = model(x, 300)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    for sparse, dense in zip(*results, strict=True):
        assert (sparse - dense).abs().max() <= 1e-4 * max(1, dense.abs().max())


@pytest.mark.parametrize("config", [U, COLUMNAR])
def test_checkpointed_activations_give_the_same_gradients_from_fewer_saved_bytes(config: KGTConfig) -> None:
    config = dataclasses.replace(config, layers=(3,) * len(config.layers))
    x, model, results, saved = torch.rand(2, 3, 12, 12), trained(config), [], []
    for on in (False, True):
        model.checkpoint_activations(on)
        model.zero_grad()
        held: dict[int, int] = {}

        def keep(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = model(x, 128)
        saved.append(sum(held.values()))
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(kept, again) for kept, again in zip(*results, strict=True))
    assert saved[1] < 0.6 * saved[0]


def test_k_matters_and_defaults_to_the_configured() -> None:
    x, model = torch.rand(1, 3, 16, 16), SIZES[U]
    assert not torch.allclose(model(x, 64), model(x, 512), atol=1e-4)
    assert torch.equal(model(x), model(x, U.topk))
    assert torch.equal(model(x, 1024), model(x, 9999))


def test_the_similarity_matters() -> None:
    x = torch.rand(1, 3, 16, 16)
    results = [trained(dataclasses.replace(U, similarity=s))(x, 128) for s in ("centred", "cosine", "dot")]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


def test_results_are_deterministic_and_do_not_depend_on_the_rest_of_the_batch() -> None:
    x, model = torch.rand(3, 3, 12, 9), SIZES[U]
    assert torch.equal(model(x, 256), model(x, 256))
    torch.testing.assert_close(model(x, 256)[1:2], model(x[1:2], 256), rtol=1e-3, atol=1e-4)


def test_gradients_in_float64() -> None:
    config = KGTConfig("u", 4, (1, 1), (1, 2), refinement=1, window=2)
    model = trained(config).double()
    x = torch.rand(1, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(x, 1024), x, fast_mode=True)
    weights = dict(model.named_parameters())
    for name in ("network.latent.layers.0.attention.logit_scale", "network.latent.layers.0.attention.position.weight2"):
        weight = weights[name]
        assert torch.autograd.gradcheck(
            lambda w, name=name: torch.func.functional_call(model, {name: w}, (x.detach(), 1024)),
            weight,
            fast_mode=True,
        )


def test_a_tiny_models_training_step_leaves_nodes_out_at_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = kgt.layers.key_graph

    def watched(features: torch.Tensor, k: int, **options: object) -> object:
        seen.append((k, features.shape[1]))
        return original(features, k, **options)

    monkeypatch.setattr(kgt.layers, "key_graph", watched)
    for task in TASKS:
        config = preset("kgt-tiny", task, 2 if task == "sr" else 1)
        KGT(config)(torch.rand(1, config.in_channels, 64, 64), max(RANDOM_TOPK))
    assert seen
    assert all(k == neighbours(512, nodes) < nodes for k, nodes in seen)


def test_bfloat16_runs() -> None:
    x, model = torch.rand(1, 3, 12, 12), trained(U)
    exact = model(x)
    assert (model.bfloat16()(x.bfloat16()).float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_model_compiles_without_a_break_for_every_k(checkpointed: bool) -> None:
    torch.compiler.reset()
    x, model = torch.rand(1, 3, 8, 8), trained(COLUMNAR)
    model.checkpoint_activations(checkpointed)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for k in (64, 256, 512):
        found, wanted = (
            torch.autograd.grad(f(x, k).square().sum(), list(model.parameters())) for f in (compiled, model)
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_what_the_dispatcher_does_on_a_gpu_compiles_for_every_k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_INSTALLED", True)
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="eager", dynamic=True)
    def picks(x: torch.Tensor, k: int) -> torch.Tensor:
        gathered = worth_gathering(1024, k)
        return x + (implementation("cuda", torch.bfloat16, 32) == "triton") + 2 * gathered

    assert [picks(torch.zeros(()), k).item() for k in (64, 128, 512)] == [3, 3, 1]


def test_the_model_exports() -> None:
    model = SIZES[COLUMNAR]
    exported = torch.export.export(model, (torch.rand(1, 3, 8, 8),))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-5)
