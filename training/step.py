"""One optimisation step. Needs torch alone, so it also runs on a bare machine (tests, profiling).

engine = TorchEngine(model, torch.optim.AdamW(model.parameters()), clip=1.0)
outcome = train_step(engine, degraded, clean, k=256, rate=2e-4, loss=charbonnier)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Engine(Protocol):
    """What a step needs of whatever owns the model and its optimizer, on one process or many."""

    model: nn.Module

    def forward(self, degraded: Tensor, k: int) -> Tensor:
        """The restored batch."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of this process's loss."""

    def update(self, rate: float) -> bool:
        """Average the gradients over the processes, clip, step, clear; False, and no step, where one is not finite."""

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""


@dataclass(frozen=True)
class StepOutcome:
    """loss: the mean over the whole batch. mse: of the restored batch, 1 for white. applied: whether the weights moved.

    forward, backward, update: seconds.
    """

    loss: float
    mse: float
    applied: bool
    forward: float
    backward: float
    update: float


def train_step(
    engine: Engine,
    degraded: Tensor,
    clean: Tensor,
    *,
    k: int,
    rate: float,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> StepOutcome:
    """One step on this process's share of the batch; skipped everywhere if a loss or gradient is not finite anywhere.

    degraded (B, in, h, w), clean (B, out, H, W): float, 1 for white. k: neighbours, for 1024 nodes, the same on all
    processes. rate: the learning rate.
    """
    started = time.perf_counter()
    restored = engine.forward(degraded, k)
    own = loss(restored, clean)
    with torch.no_grad():
        squared = (restored - clean).square().mean()
        # Averaged before the backward pass: NaN and infinity reach every process, so all of them skip or none does.
        mean_loss, mse = engine.mean(torch.stack([own.detach(), squared]).double()).tolist()
    forward_end = time.perf_counter()
    if not torch.isfinite(torch.tensor(mean_loss)):
        return StepOutcome(mean_loss, mse, False, forward_end - started, 0.0, 0.0)
    engine.backward(own)
    backward_end = time.perf_counter()
    applied = engine.update(rate)
    end = time.perf_counter()
    return StepOutcome(mean_loss, mse, applied, forward_end - started, backward_end - forward_end, end - backward_end)


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

    def backward(self, loss: Tensor) -> None:
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
