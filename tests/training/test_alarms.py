"""Alarms are raised once, cleared when over, and reach whoever is to be told."""

import http.server
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from training.alarms import NAN_STREAK, STALLED_MINUTES, WAIT_STEPS, WEBHOOK, Alarms, tell


def record(step: int, **changes: object) -> dict[str, float]:
    return {"step": step, "wait": 0.0, "seconds": 1.0, "applied": True, **changes}


def fed(own: Alarms, *records: dict[str, float], now: float = 0.0) -> list[str]:
    return [line for each in records for line in own.record(each, now)]


@pytest.fixture
def own() -> Alarms:
    return Alarms("jpeg", 30)


def test_a_quiet_run_has_none(own: Alarms) -> None:
    assert [line for step in range(1, 500) for line in own.record(record(step, checkpoint=0.1), float(step))] == []
    assert list(own.time(500.0)) == []


def test_a_loader_that_stalls(own: Alarms) -> None:
    slow = [record(step, wait=0.9) for step in range(WAIT_STEPS)]
    (line,) = fed(own, *slow, *slow)
    assert line == f"ALARM jpeg: stalled loader: 90 % of the last {WAIT_STEPS} steps is waiting for data"
    assert fed(own, *(record(step) for step in range(WAIT_STEPS))) == ["jpeg: stalled loader is over"]


def test_a_first_wait_is_none(own: Alarms) -> None:
    assert fed(own, record(1, wait=50.0, seconds=51.0), *(record(step) for step in range(2, 20))) == []


def test_steps_that_are_skipped_in_a_row(own: Alarms) -> None:
    skipped = [record(step, applied=False) for step in range(1, NAN_STREAK + 3)]
    assert fed(own, *skipped[: NAN_STREAK - 1], record(7), *skipped[: NAN_STREAK - 1], record(8)) == []
    (line,) = fed(own, *skipped)
    assert line.startswith(f"ALARM jpeg: NaN streak: {NAN_STREAK} steps in a row skipped")
    assert fed(own, record(9)) == ["jpeg: NaN streak is over"]


@pytest.mark.parametrize("fallen", [29.5, float("nan")])
def test_validation_that_falls(own: Alarms, fallen: float) -> None:
    assert fed(own, record(10, val_psnr=30.0), record(20, val_psnr=29.9, val_best_psnr=30.0)) == []
    (line,) = fed(own, record(30, val_psnr=fallen, val_best_psnr=30.0), record(31))
    assert line == f"ALARM jpeg: falling validation: {fallen:.2f} dB at step 30, 30.00 dB before"
    assert fed(own, record(40, val_psnr=30.1, val_best_psnr=30.0)) == ["jpeg: falling validation is over"]


def test_validation_that_begins_with_nan(own: Alarms) -> None:
    assert fed(own, record(10, val_psnr=float("nan"))) == ["ALARM jpeg: falling validation: nan dB at step 10"]
    assert fed(own, record(20, val_psnr=30.0)) == ["jpeg: falling validation is over"]
    assert len(fed(own, record(30, val_psnr=20.0, val_best_psnr=30.0))) == 1


def test_machines_that_do_not_come(own: Alarms) -> None:
    """There is no record yet, and no checkpoint that could be late."""
    own.begin(100.0)
    assert list(own.time(100.0 + 60 * STALLED_MINUTES)) == []
    (line,) = own.time(101.0 + 60 * STALLED_MINUTES)
    assert line.startswith("ALARM jpeg: no step: none for 10 minutes")
    assert fed(own, record(1), now=5000.0) == ["jpeg: no step is over"]


def test_no_checkpoint_for_too_long(own: Alarms) -> None:
    assert fed(own, record(1), now=100.0) == []
    assert fed(own, record(2), now=100.0 + 30 * 60) == []
    (line,) = fed(own, record(3), now=101.0 + 30 * 60)
    assert line == "ALARM jpeg: no checkpoint: none for 30 minutes"
    assert fed(own, record(4, checkpoint=1.0), now=102.0 + 30 * 60) == ["jpeg: no checkpoint is over"]


def test_no_step_for_too_long(own: Alarms) -> None:
    assert list(own.time(1e6)) == []  # it has not begun
    fed(own, record(1), now=0.0)
    (line,) = own.time(60 * STALLED_MINUTES + 1)
    assert line.startswith("ALARM jpeg: no step: none for 10 minutes")
    assert list(own.time(60 * STALLED_MINUTES + 2)) == []
    assert fed(own, record(2), now=60 * STALLED_MINUTES + 3) == ["jpeg: no step is over"]


def test_who_validates_for_long_is_alive(own: Alarms) -> None:
    fed(own, record(1), now=0.0)
    own.alive(60 * STALLED_MINUTES - 1)
    assert list(own.time(60 * STALLED_MINUTES + 1)) == []


class Hook(http.server.BaseHTTPRequestHandler):
    posted: list[dict[str, str]]
    status: int

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(params=[200, 403])
def hook(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hook]]:
    """A server that takes alarms, or refuses them."""
    handler = type("Handler", (Hook,), {"posted": [], "status": request.param})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{server.server_port}/services/T0PSECRET")
    yield handler
    server.shutdown()
    server.server_close()


def wait_for_posts() -> None:
    for thread in threading.enumerate():
        if thread.name == "webhook":
            thread.join(20)


def test_the_webhook_gets_every_line(hook: type[Hook], caplog: pytest.LogCaptureFixture) -> None:
    tell(iter(["ALARM sr: no step"]))
    wait_for_posts()
    assert hook.posted == [{"text": "ALARM sr: no step"}]
    refused = f"the alarm was not posted to ${WEBHOOK}: 403"
    assert caplog.messages == ["ALARM sr: no step", *([refused] if hook.status == 403 else [])]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/T0PSECRET",
        "T0PSECRET",
        "http://[T0PSECRET",
        "http://127.0.0.1:T0PSECRET/x",
        "http://127.0.0.1/services/T0 PSECRET",
    ],
)
def test_a_webhook_that_is_not_there_stops_nothing_and_is_not_named(
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv(WEBHOOK, address)
    with caplog.at_level(logging.DEBUG):
        tell(iter(["ALARM sr: no step"]))
        wait_for_posts()
    assert "ALARM sr: no step" in caplog.messages
    assert "was not posted" in caplog.text
    assert "PSECRET" not in caplog.text + "".join(capfd.readouterr())
