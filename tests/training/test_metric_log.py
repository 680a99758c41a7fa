"""Metrics and pictures on their way to MLflow: once each, whatever it does meanwhile, and nobody waits for it."""

import math
import threading
import time
from pathlib import Path

import mlflow
import pytest

from kgt.home import tracking_uri
from pipelines.storage import open_store
from tests.training.mlflow_server import Server
from training import metric_log, tracking
from training.metric_log import MetricLog
from training.reporter import Reporter
from training.step import StepOutcome

pytestmark = pytest.mark.usefixtures("mlflow_database")


def test_replayed_steps_are_logged_once() -> None:
    run = tracking.start_run("run")
    log = MetricLog(run, every=1)
    for step in [1, 2, 3, 4, 3, 4, 5]:
        log.add({"step": step, "k": 64, "loss": step / 3, "psnr": float("nan")})
    log.flush(60)
    again = MetricLog(run, every=1)
    for step in [4, 5, 6]:
        again.add({"step": step, "k": 64, "loss": step / 3})
    again.flush(60)
    history = mlflow.MlflowClient(tracking_uri()).get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in history] == [(step, step / 3) for step in range(1, 7)]
    assert "psnr" not in tracking.run_data(run)[1]


def test_a_start_at_a_replayed_step_is_logged() -> None:
    run = tracking.start_run("run")
    log = MetricLog(run, every=1)
    for step, more in ((1, {}), (2, {}), (2, {"resume": 3.0}), (3, {})):
        log.add({"step": step, "k": 64, "loss": 1.0, **more})
    log.flush(60)
    assert [steps_of(run, name) for name in ("loss", "resume")] == [[1, 2, 3], [2]]


def steps_of(run: str, metric: str) -> list[int]:
    return [point.step for point in mlflow.MlflowClient(tracking_uri()).get_metric_history(run, metric)]


def test_only_every_nth_step_is_logged_but_nothing_rare_is_lost() -> None:
    run = tracking.start_run("run")
    log = MetricLog(run, every=3)
    rare = {1: "resume", 5: "checkpoint", 6: "checkpoint", 7: "system/cpu_utilization_percentage", 10: "val_psnr"}
    for step in range(1, 11):
        log.add({"step": step, "k": 64, "loss": 1.0, **({rare[step]: 2.0} if step in rare else {})})
    log.flush(60)
    assert steps_of(run, "loss") == [3, 6, 9]
    assert {name: steps_of(run, name) for name in rare.values()} == {
        "resume": [1],
        "checkpoint": [5, 6],
        "system/cpu_utilization_percentage": [7],
        "val_psnr": [10],
    }
    assert MetricLog(run, every=3).last == 10


def test_what_every_step_reports_is_not_rare() -> None:
    reporter = Reporter(job=None, board=None)
    reporter.add(1, StepOutcome(0.1, 0.1, True, 0.1, 0.1, 0.1), {})
    assert reporter._records[0].keys() <= metric_log.STEP_FIGURES


class AnswerLost:
    """MLflow's client, but the answer to its first batch never arrives."""

    def __init__(self) -> None:
        self._client, self._lost = mlflow.MlflowClient(tracking_uri()), False

    def log_batch(self, run: str, metrics: list[mlflow.entities.Metric]) -> None:
        self._client.log_batch(run, metrics=metrics)
        if not self._lost:
            self._lost = True
            raise tracking.TrackingError("no answer")


def test_what_was_taken_without_an_answer_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracking.start_run("run")
    log, client = MetricLog(run, every=1), AnswerLost()
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "store_client", lambda: client)
        log.add({"step": 1, "k": 64})
        log.flush(60)
        time.sleep(0.01)  # a new timestamp would be another point
        log.add({"step": 2, "k": 64})
        log.flush(60)
    assert steps_of(run, "k") == [1, 2]


def test_a_run_that_was_deleted_holds_up_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deleted, other = tracking.start_run("deleted"), tracking.start_run("other")
    logs = [MetricLog(deleted, every=1), MetricLog(other, every=1)]
    mlflow.MlflowClient(tracking_uri()).delete_run(deleted)
    for step in (1, 2):
        for log in logs:
            log.add({"step": step, "k": 64})
            log.send()
    metric_log.close(logs, dict.fromkeys((deleted, other), "FINISHED"), 60)
    assert steps_of(other, "k") == [1, 2]
    assert mlflow.MlflowClient(tracking_uri()).get_run(other).info.status == "FINISHED"
    assert f"has not taken 2 steps of run {deleted}" in caplog.text
    assert caplog.text.count("are kept for later") == 1
    assert f"run {deleted} is FINISHED, and MLflow does not know it" in caplog.text


def test_a_picture_that_cannot_be_logged_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither one that is gone, nor an artifact store that only the server could reach."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    for name, value in (
        ("ACCESS_KEY_ID", "x"),
        ("SECRET_ACCESS_KEY", "x"),
        ("DEFAULT_REGION", "x"),
        ("MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    client, store = mlflow.MlflowClient(tracking_uri()), open_store(f"file://{tmp_path}")
    run = client.create_run(client.create_experiment("elsewhere", "s3://bucket/artifacts")).info.run_id
    log = MetricLog(run, every=1)
    store.put("sr/pictures/00000002.png", b"x")
    for key, reason in [("sr/pictures/00000001.png", "Missing"), ("sr/pictures/00000002.png", "127.0.0.1:9")]:
        caplog.clear()
        log.add_picture(store, key)
        log.flush(60)
        (message,) = caplog.messages
        assert message.startswith(f"{store.url}/{key} is not in MLflow: ")
        assert reason in message


class SlowStore:
    """A store that gives nothing before it is told to."""

    url = "slow://store"

    def __init__(self) -> None:
        self.ready = threading.Event()

    def get(self, key: str) -> bytes:
        self.ready.wait()
        return key.encode()


def assert_logged_or_told(run: str, pictures: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of those that MLflow has: the last one, and each that is not called missing."""
    logged = [Path(file.path).name for file in mlflow.MlflowClient(tracking_uri()).list_artifacts(run, "pictures")]
    assert logged[-1] == f"{pictures}.png"
    for step in range(1, pictures + 1):
        assert (f"/{step}.png is not in MLflow" in caplog.text) == (f"{step}.png" not in logged)
    return logged


def test_metrics_do_not_wait_for_pictures_and_of_pictures_the_newest_waits(caplog: pytest.LogCaptureFixture) -> None:
    run, store = tracking.start_run("run"), SlowStore()
    log = MetricLog(run, every=1)
    for step in range(1, 6):
        log.add_picture(store, f"{step}.png")
    log.add({"step": 1, "k": 64})
    log.send()
    assert log._metrics_out.done(60)
    assert steps_of(run, "k") == [1]
    log.flush(0.1)
    assert f"the last picture of run {run} is in its folder, but not in MLflow" in caplog.text
    store.ready.set()
    log.flush(60)
    assert len(assert_logged_or_told(run, 5, caplog)) <= 2  # with one that was on its way


def test_a_picture_that_the_thread_takes_while_the_next_one_comes_is_not_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, store = tracking.start_run("run"), SlowStore()
    log = MetricLog(run, every=1)
    tell = metric_log._tell_missing

    def tell_late(*args: object) -> None:
        store.ready.set()
        assert log._pictures_out.done(60)
        tell(*args)

    monkeypatch.setattr(metric_log, "_tell_missing", tell_late)
    for step in range(1, 4):
        log.add_picture(store, f"{step}.png")
        time.sleep(0.1)
    log.flush(60)
    assert_logged_or_told(run, 3, caplog)


def test_metrics_wait_for_a_server_that_refuses_and_are_lost_with_one_that_died(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metric_log, "SEND_SECONDS", -1.0)
    log = MetricLog("0" * 32, every=1)
    log.add({"step": 1, "loss": 1.0})
    log.flush(60)
    server.refusing = True
    log.add({"step": 2, "loss": 1.0})
    log.flush(60)
    assert "does not allow this account to do this" in caplog.text
    assert "are kept for later" in caplog.text
    assert "1 steps of run" in caplog.text
    server.refusing = False
    log.add({"step": 3, "loss": 1.0})
    log.flush(60)
    assert server.received == [1, 2, 3]
    caplog.clear()
    server.die()
    log.add({"step": 4, "loss": 1.0})
    log.flush(60)
    assert "1 steps of run" in caplog.text
    tracking.end_run("0" * 32)
    assert "is FINISHED, and MLflow does not know it" in caplog.text


def test_nothing_waits_for_a_server_that_is_slow(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(metric_log, "SEND_SECONDS", -1.0)
    log = MetricLog("0" * 32, every=1)
    with server.silent:
        log.add({"step": 1, "loss": 1.0})
        for step in range(2, 50):
            log.add({"step": step, "loss": 1.0})
        assert server.received == []
    log.flush(60)
    assert server.received == list(range(1, 50))


def test_what_is_acknowledged_is_not_sent_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_log, "SEND_SECONDS", math.inf)
    log = MetricLog("0" * 32, every=1)
    server.batches = 1
    for step in range(1, 151):
        log.add({"step": step, **{f"figure {number}": 1.0 for number in range(19)}})
    log.flush(60)
    assert server.refusing
    assert set(server.received) == set(range(1, 48))  # 900 metrics of whole records
    server.refusing, server.batches = False, -1
    log.flush(60)
    assert server.received == [step for step in range(1, 151) for _ in range(19)]


def test_the_end_waits_only_so_long_for_a_server_that_is_silent(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    run = "0" * 32
    log = MetricLog(run, every=1)
    with server.silent:  # waited for without a limit, it would never be let go
        log.add({"step": 1, "k": 64})
        metric_log.close([log], {run: "KILLED"}, 0.2)
        assert "has not taken 1 steps of run" in caplog.text
        assert f"does not know that these runs have ended: {run}" in caplog.text
        assert all(thread.daemon for thread in threading.enumerate() if thread.name in ("background", "end-runs"))
    log.flush(60)
    assert server.received == [1]
