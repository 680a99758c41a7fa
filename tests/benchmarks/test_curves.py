"""What is read from a run's records."""

import json
from pathlib import Path

import pytest

from kgt.errors import UserError
from tests.benchmarks.curves import curve, draw, read, summary


def write(folder: Path, name: str, steps: range, seconds: float, **more: float) -> None:
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    record = {"k": 64, "patch": 64, "batch_size": 8, "seconds": seconds, **more}
    lines = [json.dumps({"step": step, **record}) for step in steps]
    (folder / "metrics" / name).write_text("\n".join(lines) + "\n")


def test_replayed_steps_count_once_and_validation_is_paid_for(tmp_path: Path) -> None:
    write(tmp_path, "00000010.jsonl", range(1, 11), 360.0)
    write(tmp_path, "00000020.jsonl", range(9, 21), 180.0)
    write(tmp_path, "00000021.jsonl", range(21, 22), 100.0, val_psnr=30.0, validation=80.0)
    records = read(tmp_path)
    assert [record["step"] for record in records] == list(range(1, 22))
    (point,) = curve(records, 2)
    assert point == {"step": 21, "core-hours": pytest.approx(2 * (8 * 360 + 13 * 180) / 3600), "val_psnr": 30.0}


def test_the_last_hour_is_of_wall_time(tmp_path: Path) -> None:
    for step, psnr in ((1, 28.0), (2, 29.0), (3, 29.5), (4, 29.75)):
        write(tmp_path, f"{step:08d}.jsonl", range(step, step + 1), 1800.0, val_psnr=psnr)
    row = summary(read(tmp_path), 2)
    assert (row["core-hours"], row["last hour, dB"]) == (4.0, "+0.750")
    assert row["quiet"] == pytest.approx(4.0)
    draw({"a": curve(read(tmp_path), 2), "b": []}, tmp_path / "made" / "figure.png")
    assert (tmp_path / "made" / "figure.png").stat().st_size > 1000


def test_quiet_hours_stay_within_what_was_measured(tmp_path: Path) -> None:
    write(tmp_path, "00000001.jsonl", range(1, 2), 360.0)
    write(tmp_path, "00000002.jsonl", range(2, 3), 3600.0)
    assert 0.2 <= summary(read(tmp_path), 1)["quiet"] <= 1.1


def test_only_steps_of_one_phase_are_alike(tmp_path: Path) -> None:
    write(tmp_path, "00000004.jsonl", range(1, 5), 360.0)
    write(tmp_path, "00000008.jsonl", range(5, 9), 720.0, patch=96)
    write(tmp_path, "00000012.jsonl", range(9, 13), 1440.0, patch=96, batch_size=16)
    assert summary(read(tmp_path), 1)["quiet"] == pytest.approx(4 * (0.1 + 0.2 + 0.4))


def test_a_finished_run_s_last_point_is_its_closing_validation(tmp_path: Path) -> None:
    write(tmp_path, "00000002.jsonl", range(1, 3), 360.0, val_psnr=30.0)
    write(tmp_path, "00000003.jsonl", range(3, 4), 360.0)
    assert len(curve(read(tmp_path), 1)) == 2
    (tmp_path / "result.json").write_text(json.dumps({"psnr": 31.0, "ssim": 0.9, "input_psnr": 20.0}))
    last = {"step": 3, "core-hours": pytest.approx(0.3), "val_psnr": 31.0, "val_ssim": 0.9}
    assert curve(read(tmp_path), 1)[2] == last
    (tmp_path / "result.json").write_text(json.dumps({"model_version": "1"}))
    assert len(curve(read(tmp_path), 1)) == 2


def test_a_run_that_was_never_validated_has_no_figures(tmp_path: Path) -> None:
    write(tmp_path, "00000010.jsonl", range(1, 11), 1.0)
    row = summary(read(tmp_path), 1)
    assert row["validation, dB"] is None
    assert row["last hour, dB"] is None


def test_a_folder_that_is_none_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run's folder"):
        read(tmp_path)
