"""What the submission benchmark makes of moments; and that it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.submission import split


def test_parts_follow_one_another_and_make_the_whole() -> None:
    row = split([{"given": 10.0, "submit": 12.0, "driver": 15.0}, {"given": 0.0, "submit": 4.0, "driver": 5.0}])
    assert {name: part.median for name, part in row.items()} == {"submit": 3, "driver": 2, "whole": 5}
    assert row["whole"].runs == 2


@pytest.mark.slow
def test_it_runs(root: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, root / "tests" / "benchmarks" / "submission.py", "--runs", "1", "--json", found]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    stored = json.loads(found.read_text())
    assert [row["job"] for row in stored["rows"]] == ["first", "next", "empty cluster"]
    for row in stored["rows"]:
        parts = {name: part["median"] for name, part in row.items() if name != "job"}
        assert all(seconds >= 0 for seconds in parts.values()), row
        assert sum(parts.values()) == pytest.approx(2 * parts["whole"])
    (client,) = stored["submit"]
    assert client["upload, MiB"] < 5
