"""DeepSpeed as the engine of a step: the same steps as plain torch, and what it saves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from kgt.config import preset
from kgt.model import KGT
from training.config import RunConfig
from training.engine import DeepSpeedEngine
from training.losses import l1
from training.step import TorchEngine, train_step


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # DeepSpeed insists; Ray Train sets it
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def engine_of(zero: int) -> DeepSpeedEngine:
    torch.manual_seed(0)
    return DeepSpeedEngine(KGT(preset("kgt-tiny", "denoise")), RunConfig(workers=1, batch_size=2, zero=zero, clip=0.1))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    clean = torch.rand(2, 3, 16, 16, generator=generator)
    return clean + 0.1 * torch.randn(2, 3, 16, 16, generator=generator), clean


def losses(engine: DeepSpeedEngine | TorchEngine, steps: range) -> list[float]:
    return [train_step(engine, *batch(step), k=256, rate=1e-3, loss=l1).loss for step in steps]


def test_its_steps_are_those_of_plain_torch() -> None:
    torch.manual_seed(0)
    model = KGT(preset("kgt-tiny", "denoise"))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=RunConfig().weight_decay)
    expected = losses(TorchEngine(model, optimizer, clip=0.1), range(6))
    assert losses(engine_of(0), range(6)) == pytest.approx(expected, abs=1e-7)
    assert losses(engine_of(1), range(6)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_it_goes_on_exactly_from_what_it_saved(zero: int, tmp_path: Path) -> None:
    engine = engine_of(zero)
    losses(engine, range(3))
    engine.save(tmp_path)
    expected = losses(engine, range(3, 6))
    again = engine_of(zero)
    again.load(tmp_path)
    assert losses(again, range(3, 6)) == expected


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_gradient_that_is_not_finite_moves_nothing(zero: int) -> None:
    engine = engine_of(zero)
    losses(engine, range(1))
    before = [weight.detach().clone() for weight in engine.model.parameters()]

    def rooted(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return ((restored - restored.detach()).square().sum()).sqrt()  # 0 with an infinite slope

    outcome = train_step(engine, *batch(1), k=256, rate=1e-3, loss=rooted)
    assert not outcome.applied
    assert all(torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True))
    assert train_step(engine, *batch(2), k=256, rate=1e-3, loss=l1).applied
    assert any((a != b).any() for a, b in zip(before, engine.model.parameters(), strict=True))
