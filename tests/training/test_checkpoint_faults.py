"""Checkpoints in a store that refuses, loses connections and alters what it sends: as they were, or absent."""

from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff

from pipelines import patience
from pipelines.storage import Store, Unavailable
from tests.pipelines.faults import (
    EVER,
    Change,
    CutAnswer,
    CutRequest,
    Delay,
    Fault,
    FaultProxy,
    Forget,
    Lose,
    Refuse,
)
from training import checkpoint
from training.checkpoint import CheckpointError

PART, MARKER = r"/checkpoints/\d+/0/", f"/{checkpoint.MARKER}$"
FILES = {"weights.pt": bytes(range(256)) * 2000, "state/rank.pt": b"0123" * 100}


def truncated(body: bytes) -> bytes:
    return body[: len(body) // 2]


def flipped(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:]


@pytest.fixture
def store(bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """It holds the checkpoint of step 10. No pause before another try is long."""
    monkeypatch.setattr(patience, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
    save(bucket, tmp_path, 10)
    return bucket


def save(store: Store, tmp_path: Path, step: int) -> None:
    """One of a single rank."""
    folder = tmp_path / f"{step}"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    checkpoint.save(store, "sr", step, folder, {"workers": 1}, rank=0, gather=lambda parts: [parts])


def fetched(store: Store, tmp_path: Path) -> tuple[int, dict[str, bytes]]:
    """The step of the newest checkpoint, and its files."""
    found, folder = checkpoint.latest(store, "sr"), tmp_path / "back"
    checkpoint.fetch(store, found, folder)
    return found.step, {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("path", "fault", "times"),
    [
        ("", Refuse(503), 3),
        ("", Refuse(503), 12),
        (PART, Delay(0.2), 1),
        (PART, CutRequest(1000), 3),
        (PART, CutRequest(1000), 12),
        (MARKER, CutRequest(0), 12),
        (PART, CutAnswer(), 3),
        (MARKER, CutAnswer(), 3),
        (PART, Forget(), 1),
        (MARKER, Lose(), 1),
    ],
)
def test_a_checkpoint_is_saved_when_the_store_has_come_back(
    path: str, fault: Fault, times: int, store: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    """12 times is more than one try of a request and its repetitions."""
    proxy.add("PUT", path, fault, times=times)
    save(store, tmp_path, 20)
    assert fault.happened == times
    assert fetched(store, tmp_path) == (20, FILES)


@pytest.mark.parametrize("path", [PART, MARKER])
@pytest.mark.parametrize("fault", [Refuse(503), CutRequest(1000), Forget()], ids=["503", "reset", "lost"])
def test_in_a_store_that_stays_away_it_is_absent_and_the_one_before_whole(
    path: str, fault: Fault, store: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.add("PUT", path, fault, times=EVER)
    with pytest.raises(Unavailable):
        save(store, tmp_path, 20)
    assert fetched(store, tmp_path) == (10, FILES)
    proxy.clear()
    save(store, tmp_path, 20)
    assert fetched(store, tmp_path) == (20, FILES)


LOADING = {
    "503": (Refuse(503), 12, Unavailable, "the endpoint says SlowDown"),
    "reset": (CutAnswer(1000), 7, Unavailable, "does not answer"),
    "truncated": (Change(truncated, checked=True), 2, Unavailable, "gave other bytes of .*weights.pt than were put"),
    "altered": (Change(flipped, checked=True), 2, Unavailable, "gave other bytes of .*weights.pt than were put"),
    "truncated, no checksum": (Change(truncated, checked=False), 1, CheckpointError, "is not what was committed"),
    "altered, no checksum": (Change(flipped, checked=False), 1, CheckpointError, "is not what was committed"),
}


@pytest.mark.parametrize(("fault", "times", "error", "line"), LOADING.values(), ids=LOADING)
def test_a_checkpoint_comes_back_as_it_was_or_not_at_all(
    fault: Fault, times: int, error: type, line: str, store: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.add("GET", rf"{PART}.*weights", fault, times=times)
    assert fetched(store, tmp_path) == (10, FILES)
    assert fault.happened == times
    proxy.add("GET", rf"{PART}.*weights", fault, times=EVER)
    with pytest.raises(error, match=line):
        fetched(store, tmp_path)
