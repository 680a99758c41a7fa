"""The lock of a promotion or a run: one holder, who is killed, stands still, or sees another take over."""

import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from kgt.errors import UserError
from pipelines.storage import Absent, Malformed, Store, Unavailable, open_store, read_json
from training import controller, lock, processes
from training.interruption import Interruption
from training.lock import Lock, TakenOver, held, of_promotion, of_run

MODEL, KEY = "kgt-denoise", "locks/kgt-denoise.json"

HOLDING = """
import sys
import time
from pipelines.storage import open_store
from training import lock
lock.PROMOTION_LEASE = lock.RUN_LEASE = float(sys.argv[2])
store = open_store(sys.argv[1])
with lock.held(lock.of_promotion(store, "kgt-denoise")), lock.held(lock.of_run(store)):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store")
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/{tmp_path.name}")  # one memory serves all tests


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are looked for here are another machine's."""
    monkeypatch.setattr(processes, "is_here", lambda process: False)


@pytest.fixture
def holder(root: Path) -> Iterator[Callable[[Store, float], subprocess.Popen[str]]]:
    """Starts a process that holds both locks, with that lease."""
    started = []

    def start(store: Store, lease: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDING, store.url, str(lease)]
        started.append(subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def of_model(store: Store) -> Lock:
    return of_promotion(store, MODEL)


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on this machine's clock is ahead."""
    monkeypatch.setattr(lock, "_now", lambda: datetime.now(UTC) + timedelta(seconds=seconds))


def test_a_lock_is_free_again_when_its_holder_is_done(store: Store) -> None:
    for _ in range(2):
        with held(of_model(store)):
            with pytest.raises(UserError, match=r"is being promoted by .* since 20.*: wait for it; .* ends at 20"):
                of_model(store).take()
            with held(of_promotion(store, "kgt-sr")):  # another model's
                pass
        with held(of_run(store)), pytest.raises(UserError, match=r"is being trained by .* or give another out=; .* 20"):
            of_run(store).wait()
        of_run(store).wait()


def test_a_killed_holder_s_lock_is_free_at_once_on_its_machine(
    tmp_path: Path, holder: Callable[[Store, float], subprocess.Popen[str]]
) -> None:
    """Also where nobody has waited for the process."""
    store = open_store(f"file://{tmp_path}/store")
    process = holder(store, 600)
    for made in (of_model, of_run):
        with pytest.raises(UserError, match=rf"\(process {process.pid}\)"):
            made(store).wait()
    process.send_signal(signal.SIGKILL)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    for made in (of_model, of_run):
        made(store).wait()
        made(store).take()


@pytest.mark.usefixtures("elsewhere")
def test_a_killed_holder_s_lock_ends_by_itself_on_another_machine(
    tmp_path: Path,
    holder: Callable[[Store, float], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And no sooner: it is renewed while the process lives. The lease is long: a busy machine may delay that."""
    store = open_store(f"file://{tmp_path}/store")
    monkeypatch.setattr(lock, "_LOOK", 0.05)
    process = holder(store, 18)
    with pytest.raises(UserError, match=rf"the run file://.* is being trained by .* \(process {process.pid}\) since"):
        of_run(store).wait()  # after a sign of life
    assert "or was: waiting up to 90 s" in caplog.text
    process.kill()
    process.wait()
    with pytest.raises(UserError, match=rf"\(process {process.pid}\)"):
        of_run(store).take()
    later(monkeypatch, 18)
    of_run(store).wait()
    with held(of_run(store)):
        pass


@pytest.mark.usefixtures("elsewhere")
def test_a_machine_whose_clock_is_ahead_holds_no_lock_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"file://{tmp_path}/store")
    with monkeypatch.context() as patch:
        later(patch, 3600)
        of_run(store).take()
    monkeypatch.setattr(lock, "_LOOK", 0.05)
    monkeypatch.setattr(lock, "RUN_LEASE", 0.3)
    following = of_run(store)
    with pytest.raises(UserError, match="is being trained by"):
        following.take()
    following.wait()
    following.take()
    following.renew()


def test_a_process_that_got_the_number_of_a_killed_one_is_another() -> None:
    mine = processes.identity()
    assert processes.is_here(mine)
    assert not processes.has_ended(mine)
    kernel, number, start = mine.rsplit(" ", 2)
    assert processes.has_ended(f"{kernel} {number} {int(start) - 1}")
    assert not processes.has_ended(f"another-boot pid:[1] {number} {int(start) - 1}")
    for damaged in ("", "a b c", f"{kernel} ../.. 0", f"{kernel} {number}"):
        assert not processes.is_here(damaged)
        assert not processes.has_ended(damaged)
    assert not processes.has_ended(f"{kernel} 1 0") or Path("/proc/1/stat").read_text().split()[21] != "0"


def test_who_stood_still_learns_that_another_took_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(of_model(store)) as stalled:
        later(monkeypatch, 2 * lock.PROMOTION_LEASE)
        with held(of_model(store)) as second:
            with pytest.raises(TakenOver, match=r"lock of kgt-denoise was taken over by .* at 20.*: decide again"):
                stalled.renew()
            stalled.release()
            second.renew()  # what the first did changed nothing
        with pytest.raises(TakenOver, match="taken over by another"):  # nor is it free for the first again
            stalled.renew()


def test_a_holder_whose_lock_has_ended_and_whom_nobody_followed_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(of_model(store)) as slow:
        later(monkeypatch, 2 * lock.PROMOTION_LEASE)
        slow.renew()
        with pytest.raises(UserError, match="is being promoted by"):
            of_model(store).take()
        store.delete(KEY)  # by hand
        slow.renew()
        with pytest.raises(UserError, match="is being promoted by"):
            of_model(store).take()


def test_a_store_that_is_away_takes_no_lock_from_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the thread meets that renews it: a store that is away for longer than a lease, then another's lock."""
    store = open_store(f"file://{tmp_path}/store")
    monkeypatch.setattr(lock, "RUN_LEASE", 0.3)
    refused = []

    def refuse(*_: object, **__: object) -> None:
        refused.append(OSError("stale file handle") if len(refused) % 2 else Unavailable("does not answer"))
        raise refused[-1]

    with held(of_run(store)) as mine:
        with monkeypatch.context() as away:
            away.setattr(type(store), "put", refuse)
            while len(refused) < 12:
                time.sleep(0.02)
        until = read_json(store, "lock.json")["until"]
        while read_json(store, "lock.json")["until"] <= until:
            time.sleep(0.02)
        assert mine.lost is None
        other = {**read_json(store, "lock.json"), "mark": "another", "holder": "me on another machine"}
        while mine.lost is None:  # again, as a renewal that is on its way may overwrite it
            store.put("lock.json", json.dumps(other).encode())
            time.sleep(0.02)
        assert re.search("was taken over by me on another machine at 20.*: once that has ended", str(mine.lost))
    assert read_json(store, "lock.json") == other


def test_an_own_write_that_arrives_late_is_no_loss(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was thought to have failed, and comes between the look at the lock and its renewal."""
    with held(of_run(store)) as mine:
        put, late = type(store).put, [mine._record()]

        def put_late(self: Store, key: str, data: bytes, **named: object) -> str:
            if late:
                put(self, key, json.dumps(late.pop()).encode())
            return put(self, key, data, **named)

        monkeypatch.setattr(type(store), "put", put_late)
        mine.renew()
    assert read_json(store, "lock.json") == {}


def test_one_answer_that_was_altered_on_its_way_frees_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, answers = open_store(f"file://{tmp_path}"), itertools.cycle([False, True])

    def read(store: Store, key: str) -> object:
        if next(answers):
            return read_json(store, key)
        raise Malformed("it is not JSON")

    with held(of_run(store)) as mine:
        monkeypatch.setattr(lock, "read_json", read)
        mine.renew()
        with pytest.raises(UserError, match="is being trained by"):
            of_run(store).take()


@pytest.mark.parametrize(
    "damaged", [b"", b"[]", b'{"holder": "a", "process": "", "since": "b", "mark": "c", "until": "soon"}']
)
def test_a_damaged_lock_is_nobody_s(damaged: bytes, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    store.put(KEY, damaged)
    with held(of_model(store)):
        assert re.fullmatch("20.*", read_json(store, KEY)["until"])


@pytest.mark.parametrize("before", [None, "ended"])
def test_only_one_of_many_takes_a_lock(before: str | None, s3_bucket: str, tmp_path: Path) -> None:
    store, taken, barrier = open_store(f"s3://{s3_bucket}/{tmp_path.name}"), [], threading.Barrier(8)
    if before:
        with held(of_model(store)):
            pass

    def race() -> None:
        mine = of_model(store)
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


def test_a_run_that_another_drove_meanwhile_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command has read of it by then may be of before the run began."""
    store = open_store(f"file://{tmp_path}")

    def prepare(configs: list[SimpleNamespace]) -> list[SimpleNamespace]:
        with held(of_run(store)):  # from beginning to end
            pass
        return [SimpleNamespace(task="denoise", config=configs[0], plan=SimpleNamespace(datasets=()))]

    monkeypatch.setattr(controller.jobs, "prepare", prepare)
    monkeypatch.setattr(controller.tracking, "open_tracking", lambda: None)
    monkeypatch.setattr(controller.cluster, "connect", lambda: None)
    monkeypatch.setattr(controller.cluster, "refuse_local_state", lambda url: None)
    monkeypatch.setattr(controller, "_slots", lambda job: 1)
    with pytest.raises(UserError, match="is being trained by another, which has just begun or ended: try again"):
        controller.run([SimpleNamespace(task="denoise", out=store.url)], Interruption())
    assert read_json(store, "lock.json") == {}


def test_a_store_that_is_gone_at_the_end_hides_no_result(tmp_path: Path) -> None:
    """The lock ends by itself."""
    folder = tmp_path / "store"
    store = open_store(f"file://{folder}")
    with held(of_model(store)):
        (folder / KEY).unlink()
    store.put(KEY, b"", condition=Absent())
