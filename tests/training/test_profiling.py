"""Which steps are traced, and where the trace goes."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from pipelines.storage import open_store
from training.profiling import StepProfiler


def run(folder: Path, asked: range, steps: range) -> list[str]:
    """What the profiler says while `steps` are taken, each of which multiplies matrices of its number's size."""
    profiler = StepProfiler(asked, open_store(f"file://{folder}"), "sr/profile")
    said = []
    for step in steps:
        profiler.begin(step)
        torch.ones(step, step) @ torch.ones(step, step)
        said.append(profiler.end(step))
    return [address for address in said if address]


@pytest.mark.parametrize(
    ("asked", "steps", "recorded"),
    [(range(2, 4), range(1, 7), [2, 3]), (range(5, 6), range(1, 7), [5]), (range(2, 6), range(4, 7), [4, 5])],
)
def test_the_steps_that_are_asked_for_are_traced(
    tmp_path: Path, asked: range, steps: range, recorded: list[int]
) -> None:
    """Those that are left of them, where a run goes on in their midst."""
    said = run(tmp_path, asked, steps)
    assert said == [f"file://{tmp_path}/sr/profile/steps-{recorded[0]}-{recorded[-1]}.json.gz"]
    with gzip.open(said[0].removeprefix("file://")) as file:
        events = json.load(file)["traceEvents"]
    sizes = [event["args"]["Input Dims"][0] for event in events if event["name"] == "aten::matmul"]
    assert sizes == [[step, step] for step in recorded]


@pytest.mark.parametrize(("steps", "recorded"), [(range(1, 4), "2-3"), (range(2, 3), "2-2")])
def test_what_was_recorded_until_the_run_stops_is_written(tmp_path: Path, steps: range, recorded: str) -> None:
    """And what is left, under a name of its own, when it goes on."""
    profiler = StepProfiler(range(2, 6), open_store(f"file://{tmp_path}"), "sr/profile")
    for step in steps:
        profiler.begin(step)
        assert profiler.end(step) is None
    assert profiler.close() == f"file://{tmp_path}/sr/profile/steps-{recorded}.json.gz"
    assert profiler.close() is None
    (rest,) = run(tmp_path, range(2, 6), range(steps.stop, 7))
    assert rest.endswith(f"steps-{steps.stop}-5.json.gz")
    assert len(list((tmp_path / "sr" / "profile").iterdir())) == 2


def test_a_step_that_fails_is_in_the_trace(tmp_path: Path) -> None:
    profiler = StepProfiler(range(2, 6), open_store(f"file://{tmp_path}"), "sr/profile")
    profiler.begin(2)
    profiler.end(2)
    profiler.begin(3)
    assert profiler.close().endswith("steps-2-3.json.gz")


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sr").write_text("in the way of the folder")
    assert run(tmp_path, range(2, 3), range(1, 4)) == []
    assert "no trace sr/profile/steps-2-2.json.gz: " in caplog.text


@pytest.mark.parametrize("asked", [range(0), range(9, 12), range(1, 3)])
def test_no_other_step_is(tmp_path: Path, asked: range) -> None:
    assert run(tmp_path, asked, range(3, 7)) == []
    assert not list(tmp_path.iterdir())
