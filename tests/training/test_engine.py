"""DeepSpeed as the engine of a step: the same steps as plain torch, and what it saves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from kgt.config import preset
from kgt.model import KGT
from training.config import RunConfig
from training.engine import DeepSpeedEngine, LossScale
from training.losses import l1
from training.step import TorchEngine, train_step


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # DeepSpeed insists; Ray Train sets it
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the models here are too small to share among threads
        yield
        torch.set_num_threads(threads)
        dist.destroy_process_group()


def engine_of(zero: int, **settings: object) -> DeepSpeedEngine:
    torch.manual_seed(0)
    model = KGT(preset("kgt-tiny", "denoise"))
    return DeepSpeedEngine(model, RunConfig(workers=1, batch_size=2, zero=zero, clip=0.1, **settings))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    clean = torch.rand(2, 3, 16, 16, generator=generator)
    return clean + 0.1 * torch.randn(2, 3, 16, 16, generator=generator), clean


def losses(engine: DeepSpeedEngine | TorchEngine, steps: range, accumulate: int = 1) -> list[float]:
    return [train_step(engine, *batch(step), k=256, rate=1e-3, loss=l1, accumulate=accumulate).loss for step in steps]


@pytest.fixture(scope="module")
def plain() -> list[float]:
    """The losses of six steps by plain torch."""
    torch.manual_seed(0)
    model = KGT(preset("kgt-tiny", "denoise"))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=RunConfig().weight_decay)
    return losses(TorchEngine(model, optimizer, clip=0.1), range(6))


@pytest.mark.parametrize(
    ("zero", "settings"),
    [
        (0, {}),
        (1, {}),
        (2, {"accumulate": 2}),
        (3, {"activation_checkpointing": True}),
        (0, {"accumulate": 2, "activation_checkpointing": True}),
        (2, {"offload": "optimizer"}),
        (3, {"accumulate": 2, "offload": "parameters"}),
    ],
)
def test_its_steps_are_those_of_plain_torch(zero: int, settings: dict[str, object], plain: list[float]) -> None:
    engine = engine_of(zero, **settings)
    engine.model.checkpoint_activations(bool(settings.get("activation_checkpointing")))
    assert losses(engine, range(6), settings.get("accumulate", 1)) == pytest.approx(plain, abs=1e-6)


def first(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs


@pytest.mark.parametrize("zero", [0, 3])
def test_bfloat16_computes_but_does_not_store(zero: int, plain: list[float]) -> None:
    engine, types = engine_of(zero, precision="bf16"), {}
    for name, module in engine.model.named_modules():
        module.register_forward_hook(lambda module, given, out, name=name: types.update({name: first(out).dtype}))
    found = losses(engine, range(6))
    assert found == pytest.approx(plain, rel=0.01)
    assert found != plain
    attention = "network.latent.layers.0.attention"
    assert types[f"{attention}.qkv"] == torch.bfloat16
    assert types[f"{attention}.position"] == types[""] == torch.float32
    assert all(weight.dtype == torch.float32 for weight in engine.weights().values())


def test_zero_3_keeps_large_weights_in_parts() -> None:
    """So that the tests here meet weights that come and go, as those of large models do."""
    engine = engine_of(3)
    losses(engine, range(1))
    sizes = {weight.ds_numel: weight.numel() for weight in engine.model.parameters()}
    assert max(sizes) > 10_000
    assert all(held == (0 if size > 10_000 else size) for size, held in sizes.items())


def test_the_optimizer_is_the_one_that_is_named() -> None:
    optimizers = [engine_of(0, optimizer=name)._engine.optimizer for name in ("adam", "adamw")]
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.Adam, torch.optim.AdamW]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_it_goes_on_exactly_from_what_it_saved(zero: int, tmp_path: Path) -> None:
    engine = engine_of(zero, accumulate=2)
    losses(engine, range(3), 2)
    engine.save(tmp_path)
    expected = losses(engine, range(3, 6), 2)
    again = engine_of(zero, accumulate=2)
    again.load(tmp_path)
    assert losses(again, range(3, 6), 2) == expected


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_float16_scales_its_gradients_and_goes_on_with_the_scale(zero: int, tmp_path: Path) -> None:
    """The first scale is too high for these gradients: steps are skipped until it fits."""
    x = batch(0)[0][:1, :, :8, :8]
    engine = engine_of(zero, precision="fp16")
    engine._scale.value = 2.0**40
    weights = engine.whole(engine.weights())["network.tail.weight"].clone()
    first = train_step(engine, x, x + 1, k=256, rate=1e-3, loss=l1)
    assert not first.applied
    assert torch.equal(engine.whole(engine.weights())["network.tail.weight"], weights)
    assert engine._scale.value == 2.0**39
    engine._scale.value = 2.0**10
    assert train_step(engine, x, x + 1, k=256, rate=1e-3, loss=l1).applied
    engine.save(tmp_path)
    again = engine_of(zero, precision="fp16")
    again.load(tmp_path)
    assert vars(again._scale) == {"value": 2.0**10, "steps": 1}


def test_the_scale_of_float16_is_halved_and_doubled() -> None:
    scale = LossScale()
    scale.update(False)
    assert scale.value == 2.0**15
    for _ in range(LossScale.PATIENCE):
        scale.update(True)
    assert scale.value == 2.0**16
    for _ in range(40):
        scale.update(False)
    assert scale.value == 1.0


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_gradient_that_is_not_finite_moves_nothing(zero: int) -> None:
    engine = engine_of(zero)
    losses(engine, range(1))
    before = [weight.detach().clone() for weight in engine.weights().values()]

    def rooted(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return ((restored - restored.detach()).square().sum()).sqrt()  # 0 with an infinite slope

    outcome = train_step(engine, *batch(1), k=256, rate=1e-3, loss=rooted)
    assert not outcome.applied
    assert all(torch.equal(a, b) for a, b in zip(before, engine.weights().values(), strict=True))
    assert train_step(engine, *batch(2), k=256, rate=1e-3, loss=l1).applied
    assert any((a != b).any() for a, b in zip(before, engine.weights().values(), strict=True))


@pytest.mark.parametrize("zero", [0, 2, 3])
@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_micro_step_that_is_not_finite_leaves_nothing_behind(zero: int, spoilt: int, plain: list[float]) -> None:
    """An infinite target has an infinite loss with finite gradients; the steps after it are as if it had not been."""
    engine = engine_of(zero, accumulate=2)
    got = losses(engine, range(3), 2)
    degraded, clean = batch(9)
    clean[spoilt] = torch.inf
    assert not train_step(engine, degraded, clean, k=256, rate=1e-3, loss=l1, accumulate=2).applied
    assert got + losses(engine, range(3, 6), 2) == pytest.approx(plain, abs=1e-6)
