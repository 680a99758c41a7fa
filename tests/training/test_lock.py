"""The lock of a promotion: one holder, who is killed, stands still, or sees another take over."""

import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kgt.errors import UserError
from pipelines.storage import Absent, Store, open_store, read_json
from training import lock
from training.lock import Lock, held

MODEL, KEY = "kgt-denoise", "locks/kgt-denoise.json"

HOLDING = """
import sys
import time
from pipelines.storage import open_store
from training import lock
lock.LEASE, lock._RENEWAL = 4.0, 0.5
with lock.held(open_store(sys.argv[1]), "kgt-denoise"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store")
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/{tmp_path.name}")  # one memory serves all tests


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on this machine's clock is ahead."""
    monkeypatch.setattr(lock, "_now", lambda: datetime.now(UTC) + timedelta(seconds=seconds))


def test_a_lock_is_free_again_when_its_holder_is_done(store: Store) -> None:
    for _ in range(2):
        with held(store, MODEL):
            with pytest.raises(UserError, match=r"is being promoted by .* since 20.*: wait for it; .* ends at 20"):
                Lock(store, MODEL).take()
            with held(store, "kgt-sr"):  # another model's
                pass


def test_a_killed_holder_s_lock_ends_by_itself(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no sooner: it is renewed while the process lives."""
    store = open_store(f"file://{tmp_path}/store")
    process = subprocess.Popen([sys.executable, "-c", HOLDING, store.url], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        first = read_json(store, KEY)["until"]
        while read_json(store, KEY)["until"] <= first:
            assert process.poll() is None
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_now", lambda: datetime.fromisoformat(first))
        with pytest.raises(UserError, match=rf"\(process {process.pid}\)"):
            Lock(store, MODEL).take()
    deadline = time.monotonic() + 60
    while True:
        try:
            with held(store, MODEL):
                return
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_who_stood_still_learns_that_another_took_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(store, MODEL) as stalled:
        later(monkeypatch, 2 * lock.LEASE)
        with held(store, MODEL) as second:
            with pytest.raises(UserError, match=r"lock of kgt-denoise was taken over by .* at 20.*: decide again"):
                stalled.renew()
            stalled.release()
            second.renew()  # what the first did changed nothing
        with pytest.raises(UserError, match="taken over"):  # nor is it free for the first again
            stalled.renew()


def test_a_holder_whose_lock_has_ended_and_whom_nobody_followed_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(store, MODEL) as slow:
        later(monkeypatch, 2 * lock.LEASE)
        slow.renew()
        with pytest.raises(UserError, match="is being promoted by"):
            Lock(store, MODEL).take()


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"holder": "a", "since": "b", "mark": "c", "until": "soon"}'])
def test_a_damaged_lock_is_nobody_s(damaged: bytes, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    store.put(KEY, damaged)
    with held(store, MODEL):
        assert re.fullmatch("20.*", read_json(store, KEY)["until"])


@pytest.mark.parametrize("before", [None, "ended"])
def test_only_one_of_many_takes_a_lock(before: str | None, s3_bucket: str, tmp_path: Path) -> None:
    store, taken, barrier = open_store(f"s3://{s3_bucket}/{tmp_path.name}"), [], threading.Barrier(8)
    if before:
        with held(store, MODEL):
            pass

    def race() -> None:
        mine = Lock(store, MODEL)
        barrier.wait()
        try:
            mine.take()
            taken.append(True)
        except UserError:
            taken.append(False)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_a_store_that_is_gone_at_the_end_hides_no_result(tmp_path: Path) -> None:
    """The lock ends by itself."""
    folder = tmp_path / "store"
    store = open_store(f"file://{folder}")
    with held(store, MODEL):
        (folder / KEY).unlink()
    store.put(KEY, b"", condition=Absent())
