"""Promotion: the better model wins, on a real registry; everything else keeps the champion."""

import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from kgt.home import home
from kgt.imaging import read_image, write_image
from pipelines import versions
from pipelines.storage import open_store
from tests.training.promoting import ASKED, TASK, Register, alias, decide, report
from training import lock, promote, promotion, tracking
from training.evaluation import Row
from training.promotion import Promoter, Thresholds, report_path


def test_the_alias_moves_by_evidence_alone(
    images: str, register: Register, denoise_store: str, kgt_home: Path, capsys: pytest.CaptureFixture
) -> None:
    register(0.9)
    first = decide(images)
    assert first["verdict"] == "kept"
    assert "does not beat" in first["reason"]
    assert "degraded input" in first["reason"]
    assert "kept" in capsys.readouterr().out
    assert alias("champion") is None

    second = register(0.06)
    found = decide(images)
    assert (found["verdict"], alias("champion"), alias("previous")) == ("promoted", second, None)
    assert found["psnr"] > found["input_psnr"]
    assert found["champion_psnr"] is None
    assert found["rows"][0]["setting"] == "sigma=50"
    assert f"kgt-denoise-v{second}" in versions.pins(open_store(denoise_store), "denoise")["v000001"]
    assert list((kgt_home / "artifacts").rglob("promotion/denoise.json"))

    third = register(0.1)
    found = decide(images)
    assert (found["verdict"], alias("champion")) == ("kept", second)
    assert found["psnr"] < found["champion_psnr"]
    tags = tracking.get_alias(TASK, "challenger").tags
    assert tags["promotion.verdict"] == "kept"
    assert f"champion version {second}" in tags["promotion.reason"]
    assert tags["promotion.images"] == "photos (5)"

    tracking.set_alias(TASK, "challenger", third)
    fourth = register(0.03)
    assert decide(images)["verdict"] == "promoted"
    assert (alias("champion"), alias("previous")) == (fourth, second)
    found = decide(images)
    assert found["reason"] == f"version {fourth} is the champion already"
    assert found["psnr"] == found["champion_psnr"] > found["input_psnr"]
    assert tracking.get_alias(TASK, "champion").tags["promotion.verdict"] == "promoted"

    assert decide("rollback=true")["verdict"] == "rolled back"
    assert (alias("champion"), alias("previous")) == (second, second)
    assert f"version {fourth} was rolled back on" in decide(images)["reason"]
    assert alias("champion") == second
    assert promote.main([*ASKED, "rollback=true"]) == 2
    said = capsys.readouterr().err
    assert "kgt-denoise has no champion before the present one" in said
    assert promotion.tag(promotion.ROLLED_BACK) not in tracking.get_alias(TASK, "champion").tags
    assert "Traceback" not in said


def test_each_threshold_keeps_the_champion(images: str, register: Register) -> None:
    first = register(0.06)
    decide(images)
    register(0.03)
    for threshold, reason in [
        ("margin=9", "margin 9)"),
        ("max_latency_ratio=0.001", "times the time of the champion (at most 0.001)"),
        ("max_memory_ratio=0.5", "it takes 1.00 times the memory of the champion (at most 0.5)"),
        ("limit=4", "too few images to be evidence, 4 in photos where 5 are needed"),
        ("confidence=0.99", "too few images to be evidence, 5 in photos where 7 are needed"),
    ]:
        found = decide(images, threshold)
        assert (found["verdict"], alias("champion")) == ("kept", first)
        assert reason in found["reason"]
    assert {check["name"]: check["passed"] for check in found["checks"]} == {
        "psnr": False,
        "ssim": True,
        "latency": True,
        "memory": True,
        "lineage": True,
        "hostile images": True,
    }


@pytest.mark.parametrize(("lower", "passed"), [(0.0005, True), (0.002, False)])
def test_a_gain_in_psnr_does_not_excuse_a_loss_in_ssim(lower: float, passed: bool, tmp_path: Path) -> None:
    each = [
        {"image": name, "clean": name, "input_psnr": 20.0, "psnr": 21.0, "input_ssim": 0.9, "ssim": 0.9 - lower}
        for name in "abcde"
    ]
    row = Row("denoise", "set", "sigma=25", "m", 5, 20.0, 0.9, 21.0, 0.9 - lower, 0.1, per_image=each)
    promoter = Promoter(open_store(f"file://{tmp_path}"), lambda task: {}, Thresholds())
    psnr, ssim = promoter._quality([row], None, "the degraded input")
    assert (psnr.passed, ssim.passed) == (True, passed)
    assert f"({-lower:+.4f})" in ssim.found


def test_a_small_set_beside_a_large_one_is_no_evidence(images: str, register: Register, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    os.link(tmp_path / "photos" / "0.png", tmp_path / "few" / "0.png")
    register(0.03)
    found = decide(f"images=[{tmp_path / 'photos'},{tmp_path / 'few'}]")
    assert found["verdict"] == "kept"
    assert "too few images to be evidence, 1 in few where 5 are needed" in found["reason"]


def test_many_rains_of_few_photographs_are_no_evidence(images: str, register: Register, tmp_path: Path) -> None:
    """In the manner of Outdoor-Rain."""
    for number in range(2):
        photo = read_image((tmp_path / "photos" / f"{number}.png").read_bytes())
        write_image(tmp_path / "gt" / f"im_{number}.png", photo)
        for rain in range(5):
            write_image(tmp_path / "rain" / f"im_{number}_s{rain}.png", np.clip(photo, 20 + rain, 235))
    register(0.0, "weather")
    pairs = [f"degraded={tmp_path / 'rain'}", f"clean={tmp_path / 'gt'}"]
    assert promote.main(["task=weather", *pairs, "max_latency_ratio=1000"]) == 0
    found = json.loads(report_path("weather").read_text())
    assert found["verdict"] == "kept"
    assert "too few images to be evidence, 2 in" in found["reason"]
    assert {image["clean"] for image in found["rows"][0]["per_image"]} == {"im_0.png", "im_1.png"}


def test_an_unfit_challenger_is_refused(images: str, register: Register) -> None:
    register(float("nan"))
    found = decide(images, code=3)
    assert found["verdict"] == "refused"
    assert "its output for black (64x64) is not finite" in found["reason"]
    for tags, gap in [
        ({"git_commit": ""}, "it has no tag git_commit"),
        ({"dataset": "denoise/v000009"}, "has no version v000009 of denoise"),
        ({"dataset_digest": "0"}, "is no longer what it was trained on"),
        ({"dataset_digest": "[a,b]"}, "name different numbers of datasets"),
        ({"parent_run": "0" * 32}, "is not in MLflow"),
    ]:
        register(0.03, tags=tags)
        found = decide(images, code=3)
        assert found["reason"].startswith("its lineage is incomplete: ")
        assert gap in found["reason"]
    assert alias("champion") is None
    assert tracking.get_alias(TASK, "challenger").tags["promotion.verdict"] == "refused"


def test_a_champion_that_is_no_good_is_named(images: str, register: Register, capsys: pytest.CaptureFixture) -> None:
    """An alias that was moved by hand leads to what nobody has looked at."""
    tracking.set_alias(TASK, "champion", register(float("nan")))
    register(0.03)
    assert promote.main([*ASKED, images]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "denoise: the champion of kgt-denoise, version 1, fails: the model's output is not finite" in line
    assert "give rollback=true, or remove the alias champion" in line


def test_a_challenger_whose_run_is_gone_is_decided_about(
    images: str, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    """As by `mlflow gc`: its report has no place in MLflow."""
    version = register(0.03)
    run = tracking.get_alias(TASK, "challenger").run_id
    tracking.store_client().delete_run(run)
    with sqlite3.connect(home() / "mlflow.db") as database:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run])
    database.close()
    found = decide(images, code=3)
    assert found["verdict"] == "refused"
    assert f"run {run} does not take it" in caplog.text
    assert decide(images, "lineage=false")["verdict"] == "promoted"
    assert alias("champion") == version


def test_what_mlflow_lost_fails_one_task_alone(
    images: str, register: Register, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    register(0.03)
    ask = tracking.get_alias

    def lost(task: str, *arguments: str) -> ModelVersion | None:
        if task == "jpeg":
            raise MlflowException("Registered Model with name=kgt-jpeg not found")
        return ask(task, *arguments)

    monkeypatch.setattr(tracking, "get_alias", lost)
    assert promote.main(["task=[jpeg,denoise]", images, *ASKED[1:], "only_new=true"]) == 2
    assert "error: jpeg: MLflow refused: Registered Model with name=kgt-jpeg not found" in capsys.readouterr().err
    assert alias("champion") == "1"


def test_of_two_promotions_at_once_one_wins(
    images: str, register: Register, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    version, store = register(0.03), open_store(f"file://{tmp_path}/locks")
    with lock.held(lock.of_promotion(store, "kgt-denoise")):
        assert promote.main([*ASKED, images, f"store={store.url}"]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.search(rf"denoise: kgt-denoise is being promoted by .* \(process {os.getpid()}\) since 20", said)
        assert re.search(r"its lock \(.*/locks/kgt-denoise.json\) ends at 20.* unless it is renewed", said)
        assert alias("champion") is None
    decide(images, f"store={store.url}")
    assert alias("champion") == version


def test_a_promotion_that_lost_its_lock_moves_nothing(
    images: str,
    register: Register,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stood still, where it is the slowest, until its lock had ended and another took it."""
    register(0.03)
    store = open_store(f"file://{tmp_path}/locks")
    measure = promotion.evaluate_task

    def stand_still(*arguments: object, **named: object) -> list[Row]:
        rows = measure(*arguments, **named)
        monkeypatch.setattr(lock, "_now", lambda: datetime.now(UTC) + timedelta(seconds=2 * lock.PROMOTION_LEASE))
        lock.of_promotion(store, "kgt-denoise").take()
        return rows

    monkeypatch.setattr(promotion, "evaluate_task", stand_still)
    assert promote.main([*ASKED, images, f"store={store.url}"]) == 2
    assert "the lock of kgt-denoise was taken over by" in capsys.readouterr().err
    assert alias("champion") is None
    assert not report_path(TASK).exists()


class Killed(BaseException):
    """As `kill -9`, but for what runs on the way out."""


def test_who_is_killed_anywhere_in_a_promotion_leaves_no_untruth_and_the_next_ends_it(
    images: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, left = register(0.03), 0
    poll = [*ASKED, images, "only_new=true", "into=prod", "lineage=false"]

    def until_killed(write: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return write(*arguments, **named)

        return counted

    def verdicts() -> list[str | None]:
        """Of the challenger, of the champion and of the report."""
        tags = [found.tags if found else {} for found in (asked("challenger"), asked("champion", "prod"))]
        report_ = report("prod") if report_path(TASK, "prod").exists() else {}
        return [*(each.get("promotion.prod.verdict") for each in tags), report_.get("verdict")]

    for writes in range(20):
        if writes:
            begin_anew(version)
        left = writes
        with monkeypatch.context() as patch:
            for name in ("set_alias", "set_version_tags", "copy_version", "log_artifact"):
                patch.setattr(tracking, name, until_killed(getattr(tracking, name)))
            patch.setattr(promotion, "write_report", until_killed(promotion.write_report))
            with suppress(Killed):
                assert promote.main(poll) == 0
                break
        assert asked("champion", "prod") or "promoted" not in verdicts()
        assert promote.main(poll) == 0
        assert verdicts() == 3 * ["promoted"]
        assert "beats" in asked("challenger").tags["promotion.prod.reason"]
    assert writes == 10
    assert verdicts() == 3 * ["promoted"]


def asked(name: str, into: str = "") -> ModelVersion | None:
    return tracking.get_alias(TASK, name, into)


def begin_anew(version: str) -> None:
    """As if nothing had been decided."""
    report_path(TASK, "prod").unlink()
    client = tracking.store_client()
    client.delete_registered_model_alias("kgt-denoise-prod", "champion")
    for tag in asked("challenger").tags:
        if tag.startswith("promotion."):
            client.delete_model_version_tag("kgt-denoise", version, tag)
            client.delete_model_version_tag("kgt-denoise-prod", "1", tag)


def test_a_rollback_that_was_killed_is_said_and_ended_by_another(
    images: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = register(0.06)
    decide(images)
    second = register(0.03)
    decide(images)

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "set_alias", killed)
        with pytest.raises(Killed):
            promote.main([*ASKED, "rollback=true"])
    found = decide(images)
    assert (found["verdict"], alias("champion")) == ("kept", second)
    assert f"version {second} is the champion already; to roll it back was begun on 20" in found["reason"]
    assert decide("rollback=true")["verdict"] == "rolled back"
    assert alias("champion") == first


def test_models_of_different_scales_are_not_compared(
    images: str, register: Register, capsys: pytest.CaptureFixture
) -> None:
    columnar = {"shape": "columnar", "layers": (1,), "heads": (1,), "baseline": "bicubic"}
    large = register(0.0, "sr", scale=4, **columnar)
    tracking.set_alias("sr", "champion", large)
    register(0.0, "sr", scale=2, **columnar)
    assert promote.main(["task=sr", images]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the challenger, version 2 (scale=2), cannot be compared with the champion of kgt-sr, version 1" in said
    assert str(tracking.get_alias("sr", "champion").version) == large


def test_one_task_without_a_challenger_does_not_stop_another(
    images: str, register: Register, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    version = register(0.0)
    out = tmp_path / "all.json"
    assert promote.main(["task=[sr,denoise]", images, *ASKED[1:], f"report={out}"]) == 2
    said = capsys.readouterr()
    assert alias("champion") == version
    assert "promoted" in said.out
    assert "error: sr: no model is registered as kgt-sr@challenger: train one with: python training/run.py" in said.err
    assert [decision["task"] for decision in json.loads(out.read_text())] == ["denoise"]
    assert not report_path("sr").exists()


def test_a_poll_decides_about_a_challenger_once(images: str, register: Register, capsys: pytest.CaptureFixture) -> None:
    poll = ["task=all", images, *ASKED[1:], "only_new=true"]
    assert promote.main(poll) == 0
    assert capsys.readouterr().out == ""
    first = register(0.06)
    assert promote.main(poll) == 0
    assert alias("champion") == first
    assert "promoted" in capsys.readouterr().out
    report_path(TASK).unlink()
    assert promote.main(poll) == 0
    assert not report_path(TASK).exists()
    better = register(0.03)
    assert promote.main(poll) == 0
    assert alias("champion") == better
