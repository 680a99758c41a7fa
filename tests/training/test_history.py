"""Which code a run's steps were made by, where the same command went on under another."""

import json
import logging
from pathlib import Path

import pytest

from pipelines.storage import open_store
from training import checkpoint, controller, history, jobs, origin, tracking
from training.config import read_configs
from training.plan import Job

A, B = "a" * 40, "b" * 40


@pytest.fixture
def begin(denoise_store: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """What a driver does before it trains, by the code of a commit, in a folder with a checkpoint of that step."""

    def make(commit: str, step: int, *argv: str) -> Job:
        if step:
            checkpoint.save(
                open_store(f"file://{out}"), "denoise", step, out / "none", {}, rank=0, gather=lambda part: [part]
            )
        monkeypatch.setattr(origin, "git_commit", lambda: commit)
        settings = ["task=denoise", f"store={denoise_store}", f"out={out}", "patch=16", "batch_size=4", "steps=20"]
        (job,) = jobs.prepare(read_configs([*settings, *argv], ""))
        jobs.commit([job])
        return job

    return make


def test_every_commit_is_kept_with_its_first_step(begin: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    begin(A, 0)
    begin(A, 5)
    assert caplog.messages == []
    begin(B, 10)
    (said,) = caplog.messages
    assert said == f"denoise goes on from step 10 with code {B}, and came there with {A}: its lineage names both"
    begin(B, 15)
    begin(A, 20)  # nothing is left to train
    assert len(caplog.messages) == 1
    stretches = jobs.read_record(begin(B, 20).config)["history"]
    assert [(stretch["step"], stretch["git_commit"]) for stretch in stretches] == [(0, A), (10, B)]


def test_code_whose_steps_were_lost_is_not_in_it(begin: object) -> None:
    begin(A, 0)
    job = begin(B, 0)
    assert history.commits(jobs.read_record(job.config)["history"]) == [B]


def test_other_workers_are_in_it(begin: object) -> None:
    begin(A, 0)
    job = begin(A, 5, "workers=1")
    stretches = jobs.read_record(job.config)["history"]
    assert history.told(stretches) == "from step 0: workers=2; from step 5: workers=1"


def test_a_run_that_began_without_one_has_unknown_code(begin: object, out: Path) -> None:
    job = begin(A, 0)
    record = jobs.read_record(job.config)
    del record["history"]
    jobs.write_record(job.config, record)
    assert history.commits(jobs.read_record(begin(A, 5).config)["history"]) == [history.UNKNOWN, A]


@pytest.mark.usefixtures("mlflow_database")
def test_the_run_and_its_model_are_tagged_with_all_of_them(begin: object, out: Path) -> None:
    controller._open_runs([begin(A, 0)])
    _, runs, lineage = controller._open_runs([begin(B, 5)])
    told = f"from step 0: git_commit={A}; from step 5: git_commit={B}"
    for tags in (tracking.run_data(runs["denoise"])[2], lineage["denoise"]):
        assert (tags["git_commit"], tags["history"]) == (f"[{A}, {B}]", told)
        assert tags["parent_run"] == json.loads((out / "run.json").read_text())["mlflow_run"]
