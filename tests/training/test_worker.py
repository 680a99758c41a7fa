"""What a worker makes of a step that cannot be."""

import json
from types import SimpleNamespace

import pytest
import torch

from kgt.config import preset
from kgt.errors import UserError
from training import worker
from training.config import RunConfig
from training.data import Batch
from training.losses import l1
from training.phases import Phase
from training.step import StepOutcome


class Full:
    """An engine without room."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def forward(self, degraded: torch.Tensor, k: int) -> torch.Tensor:
        raise self._error


def step(engine: Full) -> None:
    config = RunConfig(task="denoise", batch_size=16, workers=2, accumulate=2, patch=384)
    job = SimpleNamespace(config=config, plan=SimpleNamespace(phase=lambda step: Phase(0, 384, 16)))
    state = SimpleNamespace(step=0, engine=engine, loss=l1)
    worker._step(job, state, Batch(torch.zeros(8, 3, 4, 4), torch.zeros(8, 3, 4, 4)))


def test_a_batch_that_the_gpu_cannot_hold_is_the_users_to_cut() -> None:
    with pytest.raises(
        UserError, match="the GPU cannot hold a micro-step of 4 patches of 384² pixels: use activation_"
    ):
        step(Full(torch.OutOfMemoryError()))


def test_a_batch_that_the_machine_cannot_hold_is_the_users_to_cut() -> None:
    """torch's own error, of memory that no machine has."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 56)
    with pytest.raises(UserError, match="the machine cannot hold a micro-step of 4 patches of 384² pixels: use"):
        step(Full(refused.value))


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        step(Full(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))


def test_a_batch_beyond_all_memory_is_refused_before_it_is_read() -> None:
    job = SimpleNamespace(
        config=RunConfig(task="sr", workers=2),
        model=preset("kgt-tiny", "sr", 2),
        plan=SimpleNamespace(phases=(Phase(0, 64, 8), Phase(9, 64, 10**9))),
    )
    with pytest.raises(UserError, match=r"batch_size=1000000000: a worker's 500000000 pairs of .* take \d+ GiB, and"):
        worker._check_memory(job)


def test_a_validation_cut_short_is_made_up_for_by_whoever_goes_on() -> None:
    """The record of its step comes once, with the validation."""
    reported, outcome, figures = [], StepOutcome(0.1, 0.2, True, 1.0, 2.0, 3.0), {"k": 64}
    answers = [None, {"val_psnr": 30.0}]
    state = object.__new__(worker._State)
    state.step, state.unvalidated = 5, None
    state.reporter = SimpleNamespace(add=lambda *record: reported.append(record))
    state.validation_due, state._validate = lambda: True, lambda: answers.pop(0)
    state.conclude(outcome, figures)
    assert not reported
    kept = json.loads(json.dumps(state.unvalidated))  # as a checkpoint keeps it
    state.conclude(StepOutcome(**kept["outcome"]), kept["figures"])
    ((step, reported_outcome, reported_figures),) = reported
    assert (step, reported_outcome, state.unvalidated) == (5, outcome, None)
    assert reported_figures | {"validation": 0} == {"k": 64, "val_psnr": 30.0, "validation": 0}
