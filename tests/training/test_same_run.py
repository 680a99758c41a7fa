"""What a worker looks at before it goes on from a checkpoint."""

import dataclasses
import json
from pathlib import Path

import pytest

from kgt.config import preset
from training import jobs
from training.checkpoint import Checkpoint, CheckpointError
from training.config import read_configs
from training.plan import Job
from training.worker import check_same_run, identity


@pytest.fixture
def job(denoise_store: str, out: Path) -> Job:
    settings = ["task=denoise", f"store={denoise_store}", f"out={out}", "patch=16", "batch_size=4"]
    (job,) = jobs.prepare(read_configs(settings, ""))
    return job


def with_plan(job: Job, **changes: object) -> Job:
    return dataclasses.replace(job, plan=dataclasses.replace(job.plan, **changes))


def test_what_a_checkpoint_says_of_its_data_is_what_it_always_was(job: Job) -> None:
    """Runs that have begun go on."""
    assert identity(job, 10)["dataset digest"] == job.plan.datasets[0].digest
    assert identity(job, 10)["samples of each stream"] == [10] * 4


def test_a_checkpoint_of_the_run_is_taken(job: Job) -> None:
    state = json.loads(json.dumps(identity(job, 10)))
    check_same_run(Checkpoint(10, state, ()), job)


@pytest.mark.parametrize("what", ["model", "dataset digest", "samples of each stream"])
def test_one_of_another_run_is_refused_in_one_line(job: Job, what: str) -> None:
    others = {
        "model": dataclasses.replace(job, model=preset("kgt-s", "sr", 2)),
        "dataset digest": with_plan(job, datasets=(dataclasses.replace(job.plan.datasets[0], digest="0" * 64),)),
        "samples of each stream": with_plan(job, phases=(dataclasses.replace(job.plan.phases[0], batch_size=8),)),
    }
    with pytest.raises(
        CheckpointError, match=f"step 10 in .* is of another run, as its {what} says: give another out="
    ):
        check_same_run(Checkpoint(10, identity(others[what], 10), ()), job)
