"""The demo's own claims. That it runs from end to end is `make demo` itself, and `test_demo_end_to_end` (slow)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from infra import demo
from kgt.config import neighbours, preset
from kgt.graph import draw_topk
from kgt.tasks import TASKS
from training.comparison import images_needed
from training.config import read_configs
from training.promotion import Thresholds


@pytest.mark.parametrize("task", TASKS)
def test_every_training_step_is_sparse_at_the_finest_level(task: str) -> None:
    """k < N: an attention that is dense in truth would make the demo a demo of something else."""
    [config] = read_configs([*demo.TRAINING[1:], f"task={task}"], usage="")
    model = preset(config.model, task, 2 if task == "sr" else 1)
    nodes = min(model.window, config.patch) ** 2
    drawn = {neighbours(draw_topk(config.seed, step), nodes) for step in range(config.steps)}
    assert max(drawn) < nodes
    assert len(drawn) > 1


def test_what_is_shown_is_held_out() -> None:
    held_out = {path.name for path in demo.sample_photographs("val")}
    assert set(demo.SHOWN) == set(TASKS)
    assert set(demo.SHOWN.values()) <= held_out
    assert len(held_out) >= images_needed(Thresholds().confidence)


def test_the_sheet_shows_the_pictures_two_tasks_a_line(rng: np.random.Generator) -> None:
    clean = rng.integers(0, 256, (300, 320, 3), dtype=np.uint8)
    small = clean[::2, ::2]
    sheet = demo.contact_sheet([("a", clean, clean, clean), ("b", clean, small, clean), ("c", small, clean, small)])
    middle = clean[22 : 22 + demo.CELL, 32 : 32 + demo.CELL]
    cell = demo.CELL + 8
    found = [(sheet[30 : 30 + demo.CELL, 8 + n * cell : 8 + n * cell + demo.CELL] == middle).all() for n in range(6)]
    assert found == [True, True, True, True, False, True]
    assert sheet.shape[0] == 2 * (demo.CELL + 30) + 8


def test_code_that_no_commit_names_promotes_too_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []
    monkeypatch.setattr(demo, "run", lambda command: asked.append(command) or "promote" in command[1])
    unnamed = ["lineage=false"]
    for commit, more in (("a" * 40, []), (f"{'a' * 40}-dirty", unnamed), (f"source-{'0' * 16}", unnamed)):
        monkeypatch.setattr(demo.origin, "git_commit", lambda commit=commit: commit)
        assert demo.main() == 1
        assert [argument for argument in asked[-1] if argument.startswith("lineage=")] == more
        assert ("No commit has the code" in capsys.readouterr().out) == bool(more)


@pytest.mark.slow
def test_demo_end_to_end(root: Path, kgt_home: Path) -> None:
    command = [sys.executable, root / "infra" / "demo.py"]
    done = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = {task: json.loads((kgt_home / "reports" / f"{task}.json").read_text()) for task in TASKS}
    assert reports["denoise"]["psnr"] - reports["denoise"]["input_psnr"] >= 3
    assert reports["jpeg"]["psnr"] - reports["jpeg"]["input_psnr"] >= 0.1
    assert all(report["rows"][0]["images"] >= 5 for report in reports.values())
    assert (kgt_home / "demo" / "restored.png").exists()
    assert "mlflow ui" in done.stdout
