"""The classical baseline is measured on the pairs and by the protocol of models; BM3D itself is not installed here."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kgt.imaging import write_image
from tests.benchmarks import classical, harness


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["classical.py", *arguments])
    harness.start(classical.main)


def test_without_the_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--images", "sample")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: bm3d is not installed: pip install -e '.[platform,benchmarks]'\n"


def test_every_set_and_noise_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With a stand-in that averages the whole image, right where that is flat; it is told the noise's deviation."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(3):
            write_image(tmp_path / name / f"{number}.png", np.full((48, 40, 3), 120, np.uint8))
    told = []

    def average(noisy: np.ndarray, sigma: float) -> np.ndarray:
        told.append(round(255 * sigma))
        return np.broadcast_to(noisy.mean((0, 1)), noisy.shape)

    stand_in = ModuleType("bm3d")
    stand_in.bm3d_rgb = average
    monkeypatch.setitem(sys.modules, "bm3d", stand_in)
    monkeypatch.setattr(harness.importlib.metadata, "version", lambda package: "1")
    found = tmp_path / "found.json"
    sets = ["--images", str(tmp_path / "one"), str(tmp_path / "two"), "--sigma", "15", "25"]
    run(monkeypatch, *sets, "--limit", "2", "--json", str(found))
    rows = json.loads(found.read_text())["rows"]
    assert [(row["set"], row["setting"], row["images"]) for row in rows] == [
        (name, f"sigma={sigma}", 2) for name in ("one", "two") for sigma in (15, 25)
    ]
    assert told == [15, 15, 25, 25] * 2
    for row, sigma in zip(rows, [15, 25] * 2, strict=True):
        assert row["input_psnr"] == pytest.approx(20 * np.log10(255 / sigma), abs=0.3)
        assert row["psnr"] > 45
        assert row["input_ssim"] < row["ssim"] == pytest.approx(1, abs=1e-3)
    assert f"{rows[0]['input_psnr']:.2f}" in capsys.readouterr().out
