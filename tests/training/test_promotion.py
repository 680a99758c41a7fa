"""Promotion: the better model wins, on a real registry; everything else keeps the champion."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from kgt.config import KGTConfig
from kgt.errors import UserError
from kgt.imaging import write_image
from kgt.model import KGT
from kgt.weights import save_weights
from pipelines.json_report import check_report
from training import promote, tracking
from training.promotion import report_path

TASK = "denoise"
SETTINGS = "tasks.denoise.sigma=50"


@pytest.fixture
def images(tmp_path: Path) -> str:
    write_image(tmp_path / "photos" / "a.png", np.ascontiguousarray(data.astronaut()[:64, 200:264]))
    return f"images={tmp_path / 'photos'}"


def register(folder: Path, shift: float, task: str = TASK, **shape: object) -> str:
    """A version that returns its input, brighter by `shift`: the smaller, the better. It becomes the challenger."""
    usual = {"shape": "u", "dim": 8, "layers": (1, 1), "heads": (1, 1), "window": 8}
    model = KGT(KGTConfig(**usual | shape))
    with torch.no_grad():
        list(model.network.modules())[-1].bias.fill_(shift)
    save_weights(model, folder / "weights.safetensors", metadata={"task": task})
    tracking.open_tracking()
    run = tracking.start_run("test")
    version = tracking.register(task, run, folder / "weights.safetensors", tags={}, card="a test")
    tracking.set_alias(task, "challenger", version)
    return version


def champion() -> str | None:
    found = tracking.get_alias(TASK, "champion")
    return str(found.version) if found else None


def report() -> dict:
    return json.loads(report_path(TASK).read_text())


def test_the_alias_moves_by_evidence_alone(images: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def decide() -> dict:
        assert promote.main([f"task={TASK}", images, SETTINGS]) == 0
        return report()

    register(tmp_path, 0.9)
    first = decide()
    assert first["verdict"] == "kept"
    assert "does not beat" in first["reason"]
    assert "degraded input" in first["reason"]
    assert champion() is None

    second = register(tmp_path, 0.06)
    found = decide()
    assert (found["verdict"], champion()) == ("promoted", second)
    assert found["psnr"] > found["input_psnr"]
    assert found["champion_psnr"] is None
    assert found["rows"][0]["setting"] == "sigma=50"

    third = register(tmp_path, 0.1)
    found = decide()
    assert (found["verdict"], champion()) == ("kept", second)
    assert found["psnr"] < found["champion_psnr"]
    tags = tracking.get_alias(TASK, "challenger").tags
    assert tags["promotion.verdict"] == "kept"
    assert f"champion version {second}" in tags["promotion.reason"]
    assert tags["promotion.images"] == "photos (1)"

    register(tmp_path, float("nan"))
    found = decide()
    assert (found["verdict"], champion()) == ("refused", second)
    assert "not finite" in found["reason"]

    tracking.set_alias(TASK, "challenger", third)
    fifth = register(tmp_path, 0.03)
    assert decide()["verdict"] == "promoted"
    assert champion() == fifth
    assert decide()["reason"] == f"version {fifth} is the champion already"
    assert champion() == fifth
    assert "Traceback" not in capsys.readouterr().err


def test_models_of_different_scales_are_not_compared(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    columnar = {"shape": "columnar", "layers": (1,), "heads": (1,), "baseline": "bicubic"}
    large = register(tmp_path, 0.0, "sr", scale=4, **columnar)
    tracking.set_alias("sr", "champion", large)
    register(tmp_path, 0.0, "sr", scale=2, **columnar)
    assert promote.main(["task=sr", images]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "kgt-sr version 2 (scale=2) cannot be compared with its champion, version 1 (scale=4)" in said
    assert str(tracking.get_alias("sr", "champion").version) == large


def test_one_task_without_a_challenger_does_not_stop_another(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    version = register(tmp_path, 0.0)
    out = tmp_path / "all.json"
    assert promote.main(["task=[sr,denoise]", images, SETTINGS, f"report={out}"]) == 2
    said = capsys.readouterr()
    assert champion() == version
    assert "promoted" in said.out
    assert "error: sr: no model is registered as kgt-sr@challenger: train one with: python training/run.py" in said.err
    assert [decision["task"] for decision in json.loads(out.read_text())] == ["denoise"]
    assert not report_path("sr").exists()


def test_a_poll_decides_about_a_challenger_once(images: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    poll = ["task=all", images, SETTINGS, "only_new=true"]
    assert promote.main(poll) == 0
    assert capsys.readouterr().out == ""
    first = register(tmp_path, 0.06)
    assert promote.main(poll) == 0
    assert champion() == first
    assert "promoted" in capsys.readouterr().out
    report_path(TASK).unlink()
    assert promote.main(poll) == 0
    assert not report_path(TASK).exists()
    better = register(tmp_path, 0.03)
    assert promote.main(poll) == 0
    assert champion() == better


def test_mistakes_are_told_before_anything_is_done(
    images: str, tmp_path: Path, kgt_home: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, words in [
        (["task=dnoise", images], "unknown task 'dnoise': did you mean 'denoise'?"),
        ([], "name the images"),
        ([f"images={tmp_path / 'empty'}"], "no image there"),
        ([f"images={tmp_path / 'nowhere'}"], "no such folder"),
        ([images, "tasks.denoise.sigm=3"], "did you mean 'sigma'?"),
    ]:
        assert promote.main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert words in line
    assert not list(kgt_home.iterdir())


def test_a_report_that_cannot_be_written_is_said_before_anything_moves(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write report"):
        check_report(tmp_path / "file" / "report.json")
