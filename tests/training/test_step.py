"""The optimisation step, with torch alone; its losses, schedule and average."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kgt.config import RANDOM_TOPK
from training.ema import Ema
from training.losses import LOSSES, charbonnier, fft, l1, weighted
from training.schedule import learning_rate, neighbours
from training.step import TorchEngine, train_step


class Scaled(nn.Module):
    """The least that a step needs of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor, k: int) -> Tensor:
        self.k = k
        return x * self.weight


def test_a_step_needs_torch_alone(root: Path) -> None:
    code = """
import sys
for name in ("ray", "deepspeed", "mlflow", "omegaconf", "boto3", "webdataset", "albumentations"):
    sys.modules[name] = None
import torch
from kgt.config import preset
from kgt.model import KGT
from training.ema import Ema
from training.losses import LOSSES
from training.schedule import learning_rate
from training.step import TorchEngine, train_step
torch.manual_seed(0)
model = KGT(preset("kgt-tiny", "denoise"))
engine = TorchEngine(model, torch.optim.AdamW(model.parameters()), clip=1.0)
average, clean = Ema(model.state_dict(keep_vars=True), 0.9), torch.rand(2, 3, 32, 32)
noisy = clean + 0.1 * torch.randn_like(clean)
losses = []
for step in range(12):
    rate = learning_rate(step, peak=1e-3, steps=12, warmup=2)
    losses.append(train_step(engine, noisy, clean, k=128, rate=rate, loss=LOSSES["l1"]).loss)
    average.update()
assert losses[-1] < 0.95 * losses[0], losses
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_one_step_is_one_step_of_the_optimizer() -> None:
    model = Scaled()
    engine = TorchEngine(model, torch.optim.SGD(model.parameters(), lr=9.0), clip=0)
    outcome = train_step(engine, torch.ones(4, 1, 2, 2), torch.zeros(4, 1, 2, 2), k=64, rate=0.25, loss=l1)
    assert model.k == 64
    assert (outcome.loss, outcome.mse, outcome.applied) == (2.0, 4.0, True)
    assert model.weight.item() == 2.0 - 0.25  # the gradient of |w| is 1, the rate the one given here


def test_the_gradient_is_clipped_and_cleared() -> None:
    model = Scaled()
    engine = TorchEngine(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=0.5)
    train_step(engine, torch.full((1, 1, 2, 2), 100.0), torch.zeros(1, 1, 2, 2), k=64, rate=1.0, loss=l1)
    assert model.weight.item() == pytest.approx(1.5, abs=1e-4)
    assert model.weight.grad is None


def test_micro_steps_give_the_gradient_of_the_whole_batch() -> None:
    x, y = torch.rand(2, 6, 1, 4, 4, dtype=torch.float64)
    weights, outcomes = [], []
    for accumulate in (1, 2, 3, 6):
        model = Scaled().double()
        engine = TorchEngine(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=0)
        outcomes.append(train_step(engine, x, y, k=64, rate=0.5, loss=l1, accumulate=accumulate))
        weights.append(model.weight.item())
    assert weights == pytest.approx([weights[0]] * 4, abs=1e-12)
    assert [outcome.loss for outcome in outcomes] == pytest.approx([outcomes[0].loss] * 4, abs=1e-12)
    assert [outcome.mse for outcome in outcomes] == pytest.approx([outcomes[0].mse] * 4, abs=1e-12)


@pytest.mark.parametrize("spoilt", range(3))
def test_one_micro_step_that_is_not_finite_skips_the_whole_step(spoilt: int) -> None:
    """An infinite target has an infinite loss with finite gradients."""
    model = Scaled()
    engine = TorchEngine(model, torch.optim.AdamW(model.parameters()), clip=1.0)
    clean = torch.zeros(3, 1, 2, 2)
    clean[spoilt] = math.inf
    outcome = train_step(engine, torch.ones(3, 1, 2, 2), clean, k=64, rate=1.0, loss=l1, accumulate=3)
    assert (outcome.loss, outcome.applied) == (math.inf, False)
    assert model.weight.item() == 2.0
    assert not engine.optimizer.state
    assert train_step(engine, torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2), k=64, rate=0.1, loss=l1).applied


def test_the_times_of_a_step_are_its_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-steps: forward, backward, forward, backward, update; each reading of the clock is one later."""
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    model = Scaled()
    engine = TorchEngine(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=0)
    x = torch.rand(2, 1, 2, 2)
    outcome = train_step(engine, x, x, k=64, rate=1.0, loss=l1, accumulate=2)
    assert (outcome.forward, outcome.backward, outcome.update) == (2.0, 2.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_moves_nothing(bad: float) -> None:
    model = Scaled()
    engine = TorchEngine(model, torch.optim.AdamW(model.parameters()), clip=1.0)
    outcome = train_step(engine, torch.full((1, 1, 2, 2), bad), torch.zeros(1, 1, 2, 2), k=64, rate=1.0, loss=l1)
    assert not outcome.applied
    assert model.weight.item() == 2.0
    assert not engine.optimizer.state


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    model = Scaled()
    engine = TorchEngine(model, torch.optim.AdamW(model.parameters()), clip=1.0)

    def rooted(restored: Tensor, clean: Tensor) -> Tensor:
        return (restored - clean).square().sum().sqrt()  # 0 with an infinite slope

    outcome = train_step(engine, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), k=64, rate=1.0, loss=rooted)
    assert outcome.loss == 0
    assert not outcome.applied
    assert model.weight.item() == 2.0
    assert model.weight.grad is None


def test_losses_are_their_formulas() -> None:
    a, b = torch.tensor([0.0, 3.0]), torch.tensor([0.0, -1.0])
    assert LOSSES["l1"](a, b).item() == 2.0
    assert charbonnier(a, b, epsilon=3.0).item() == pytest.approx((3 + 5) / 2)
    assert LOSSES["charbonnier"](a, a).item() == pytest.approx(1e-3)


def test_the_fourier_loss_is_that_of_a_wave() -> None:
    """A cosine of three periods, amplitude a: two real coefficients of N · a / 2, one of them in the half spectrum."""
    x = torch.arange(16) / 16
    wave = (0.5 * torch.cos(2 * math.pi * 3 * x)).expand(1, 1, 16, 16)
    assert fft(wave, torch.zeros_like(wave)).item() == pytest.approx(256 * 0.25 / (16 * 9 * 2), rel=1e-5)


def test_a_combined_loss_is_the_weighted_sum_in_float32() -> None:
    a, b = torch.rand(2, 1, 3, 8, 8).bfloat16()
    loss = weighted({"charbonnier": 1.0, "fft": 0.05})(a, b)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(charbonnier(a.float(), b.float()).item() + 0.05 * fft(a.float(), b.float()))


def test_the_rate_warms_up_and_follows_half_a_cosine() -> None:
    rates = [learning_rate(step, peak=1.0, steps=110, warmup=10) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.505)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_the_rate_is_halved_at_milestones() -> None:
    rates = [
        learning_rate(step, peak=1.0, steps=100, warmup=4, schedule="multistep", milestones=[0.5, 0.8, 0.95])
        for step in range(100)
    ]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert [step for step, (a, b) in enumerate(itertools.pairwise(rates), 1) if b < a] == [50, 80, 95]
    assert rates[-1] == 0.125


def test_a_run_shorter_than_its_warmup_has_a_rate() -> None:
    assert learning_rate(2, peak=1.0, steps=3, warmup=100) == pytest.approx(0.03)


def test_k_is_drawn_of_seed_and_step_or_fixed() -> None:
    drawn = [neighbours(step, topk="random", seed=4) for step in range(200)]
    assert set(drawn) == set(RANDOM_TOPK)
    assert drawn == [neighbours(step, topk="random", seed=4) for step in range(200)]
    assert drawn != [neighbours(step, topk="random", seed=5) for step in range(200)]
    assert {neighbours(step, topk="256", seed=4) for step in range(20)} == {256}
    assert {neighbours(step, topk="random", seed=4, dense=True) for step in range(200)} == {*RANDOM_TOPK, 1024}


def test_the_average_follows_the_weights() -> None:
    model = Scaled()
    ema, expected = Ema(model.state_dict(keep_vars=True), 0.5), 2.0
    for update, value in enumerate([4.0, 1.0, 7.0]):
        model.weight.data.fill_(value)
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    assert ema.shadow["weight"].item() == pytest.approx(expected)
    again = Ema(Scaled().state_dict(keep_vars=True), 0.5)
    again.load(ema.shadow, ema.updates)
    assert again.updates == 3
    assert torch.equal(again.shadow["weight"], ema.shadow["weight"])
