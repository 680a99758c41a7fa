"""One optimisation step. Needs torch alone, so it also runs on a bare machine (tests, profiling).

engine = TorchEngine(model, torch.optim.AdamW(model.parameters()), clip=1.0)
outcome = train_step(engine, degraded, clean, k=256, rate=2e-4, loss=charbonnier)
"""

import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from training.losses import Loss


class Engine(Protocol):
    """What a step needs of whatever owns the model and its optimizer, on one process or many."""

    model: nn.Module

    def forward(self, degraded: Tensor, k: int) -> Tensor:
        """The restored batch."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate the gradients of this process's loss. last: of the step, so that `update` follows."""

    def update(self, rate: float) -> bool:
        """Average the gradients over the processes, clip, step, clear; False, and no step, where one is not finite."""

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""


@dataclass(frozen=True)
class StepOutcome:
    """loss: the mean over the whole batch. mse: of the restored batch, 1 for white. applied: whether the weights moved.

    forward, backward, update: seconds, summed over the micro-steps.
    """

    loss: float
    mse: float
    applied: bool
    forward: float
    backward: float
    update: float


def train_step(
    engine: Engine, degraded: Tensor, clean: Tensor, *, k: int, rate: float, loss: Loss, accumulate: int = 1
) -> StepOutcome:
    """One step on this process's share of the batch; skipped everywhere if a loss or gradient is not finite anywhere.

    degraded (B, in, h, w), clean (B, out, H, W): float, 1 for white. k: neighbours, for 1024 nodes, the same on all
    processes. rate: the learning rate. accumulate: micro-steps that the share is cut into; divides B.
    """
    watch = _Stopwatch(degraded.device)
    total = torch.zeros(2, dtype=torch.float64, device=degraded.device)
    pieces = list(zip(degraded.chunk(accumulate), clean.chunk(accumulate), strict=True))
    for number, (given, wanted) in enumerate(pieces, 1):
        watch.begin("forward")
        restored = engine.forward(given, k)
        own = loss(restored, wanted)
        with torch.no_grad():
            squared = (restored - wanted).square().mean()
            means = engine.mean(torch.stack([own, squared]).double()) / accumulate
            total += means
            # NaN and infinity reach every process in the mean, and from there all of its gradients: so all of them skip
            # the step or none does. Nothing waits for the device to know.
            weight = torch.where(means[0].isfinite(), 1.0, torch.nan).to(own.dtype) / accumulate
        watch.begin("backward")
        engine.backward(own * weight, last=number == len(pieces))
    watch.begin("update")
    applied = engine.update(rate)
    mean_loss, mse = total.tolist()
    return StepOutcome(mean_loss, mse, applied, **watch.seconds())


class _Stopwatch:
    """Seconds by section. On a GPU by the device's own events, as it works behind the host, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._begun: list[tuple[str, float | torch.cuda.Event]] = []

    def begin(self, section: str) -> None:
        """The section before ends here."""
        self._begun.append((section, self._now()))

    def seconds(self) -> dict[str, float]:
        """The sum of each section; the last one ends here."""
        self.begin("")
        if self._cuda:
            torch.cuda.synchronize()
        sums: dict[str, float] = {}
        for (section, start), (_, end) in zip(self._begun, self._begun[1:], strict=False):
            passed = start.elapsed_time(end) / 1000 if self._cuda else end - start
            sums[section] = sums.get(section, 0.0) + passed
        return sums

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class TorchEngine:
    """The Engine of one process, in plain PyTorch."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, clip: float) -> None:
        """clip: largest norm of the gradient; 0 does not clip."""
        self.model = model
        self.optimizer = optimizer
        self.clip = clip

    def forward(self, degraded: Tensor, k: int) -> Tensor:
        """See Engine."""
        return self.model(degraded, k)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See Engine."""
        loss.backward()

    def update(self, rate: float) -> bool:
        """See Engine."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip or float("inf"))
        finite = bool(torch.isfinite(norm))
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        return finite

    def mean(self, values: Tensor) -> Tensor:
        """See Engine."""
        return values
