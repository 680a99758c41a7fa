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


@pytest.mark.parametrize("asked", [range(0), range(9, 12), range(1, 3)])
def test_no_other_step_is(tmp_path: Path, asked: range) -> None:
    assert run(tmp_path, asked, range(3, 7)) == []
    assert not list(tmp_path.iterdir())
