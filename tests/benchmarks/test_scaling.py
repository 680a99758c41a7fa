"""What the scaling benchmark makes of a run's records; and that it runs, at its smallest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.scaling import goals, split


def record(seconds: float, **changes: float) -> dict[str, float]:
    parts = {"wait": 0.01, "forward": 0.4, "backward": 0.5, "update": 0.05}
    return {**parts, "seconds": seconds, "batch_size": 4, "memory": 900.0, **changes}


def test_what_is_not_of_a_step_is_overhead() -> None:
    row = split([record(1.0), record(1.0, memory=950.0), record(3.0)])
    assert row["pairs/s"] == pytest.approx(12 / 5)
    assert row["overhead"] == pytest.approx(1 - 3 * 0.96 / 5)
    assert row["forward"] == pytest.approx(3 * 0.4 / 5)
    assert row["step"].runs == 3
    assert row["memory, MiB"] == 950


def test_a_cost_of_some_steps_is_overhead() -> None:
    """10 of 25 steps lose a second each, as to a report: a median over the steps would not see it."""
    lost = [record(2.0 if step % 5 < 2 else 1.0) for step in range(25)]
    assert split(lost)["overhead"] == pytest.approx(1 - 25 * 0.96 / 35)


def test_checkpoints_stand_beside_the_steps() -> None:
    alone = split([record(1.0), record(1.0)])
    row = split([record(1.0), record(1.0, checkpoint=3.0), record(1.0, checkpoint=5.0)])
    assert (row["checkpoint, s"], alone["checkpoint, s"]) == (4.0, None)
    assert (row["overhead"], row["pairs/s"]) == (pytest.approx(alone["overhead"]), alone["pairs/s"])


@pytest.mark.parametrize(("ratio", "overhead", "met"), [(0.9, 0.03, [True, True]), (0.89, 0.031, [False, False])])
def test_goals_are_of_the_worse_of_both(ratio: float, overhead: float, met: list[bool]) -> None:
    one, two = {"pairs/s": 10, "overhead": overhead}, {"pairs/s": 10 * ratio, "overhead": 0.0}
    assert [goal["met"] for goal in goals("kgt-s", one, two)] == met


@pytest.mark.slow
def test_it_runs(root: Path, tmp_path: Path) -> None:
    smallest = ["--model", "kgt-tiny", "--models", "kgt-tiny", "--steps", "4", "--runs", "1", "--patch", "16"]
    found = tmp_path / "found.json"
    command = [sys.executable, root / "tests" / "benchmarks" / "scaling.py", *smallest, "--json", found]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(found.read_text())
    assert [row["part"] for row in rows["rows"]] == ["workers"] * 2 + ["zero"] * 4 + ["checkpoints"] + ["start"] * 2
    assert len(rows["goals"]) == 2
    workers = rows["rows"][:2]
    assert all(0 < row["forward"] + row["backward"] + row["overhead"] < 1 for row in workers)
    assert all(row["checkpoint, s"] > 0 for row in workers)
    assert rows["rows"][-1]["first step"]["median"] > rows["rows"][-1]["starting"]["median"] > 0
