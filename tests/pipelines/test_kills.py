"""`kill -9` of the command, of a worker or of Ray at any moment, and the same command again: the same bytes."""

import os
import random
import re
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from pipelines import cluster, synthesize, versions
from pipelines.storage import open_store
from tests.pipelines.faults import FaultProxy, Hold
from tests.pipelines.runs import Run, contents

ASKED = ["task=[deblur,sr,jpeg]", "crop=64", "crops=4", "shards_min=7"]

# What Ray's processes are called; the first worker that makes shards is meant.
VICTIMS = {"driver": "driver", "worker": "ray::Map", "raylet": "raylet", "gcs": "gcs_server"}

# What the command writes, in that order.
PLACES = [r"pool/.*tar$", r"pool/.*json$", "survey/", "versions/", "CURRENT$"]


# Ray gives up a GCS that died after 60 seconds by default.
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}


class Battered:
    """One job on S3, killed again and again."""

    def __init__(self, root: Path, photos: Path, folder: Path, proxy: FaultProxy, variables: dict[str, str]) -> None:
        self._root, self._photos, self._folder, self._proxy, self._variables = root, photos, folder, proxy, variables
        name = f"bucket-{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=name)
        self.store = open_store(f"s3://{name}/shards")
        self.runs: list[Run] = []

    def start(self, **variables: str) -> Run:
        """The command, once more."""
        asked = [f"source={self._photos}", f"store={self.store.url}", *ASKED]
        run = Run(self._root, "synthesize.py", *asked, cwd=self._folder, variables=self._variables | variables)
        self.runs.append(run)
        return run

    def kill(self, victim: str, when: "Moment | float") -> bool:
        """Start the command, and kill one of its processes at that moment, or after so many seconds.

        False if the command ended before. Fails if it ends otherwise than it should.
        """
        run = self.start(**(IMPATIENT if victim == "gcs" else {}))
        held = self._proxy.add("PUT", when.path, Hold()) if isinstance(when, Moment) else Hold()
        deadline = time.monotonic() + (240 if isinstance(when, Moment) else when)
        while not held.arrived.wait(0.05) and run.process.poll() is None and time.monotonic() < deadline:
            continue
        killed = run.process.poll() is None and run.kill(VICTIMS[victim])
        held.release(arrive=isinstance(when, Moment) and when.arrive)
        self._proxy.clear()
        ended = run.wait(120)
        if not killed or victim == "worker":  # a dead worker's task is run again
            assert ended.code == 0, ended.said
        elif victim == "driver":
            assert ended.code in (0, -signal.SIGKILL), ended.said
        else:  # of a dead GCS Ray itself speaks, and ends the process
            assert "Traceback" not in ended.said, ended.said
            told = re.search(r"^error: (Ray died|no Ray starts)|Failed to connect to GCS", ended.said, re.MULTILINE)
            assert ended.code == 0 or told, ended.said
        return killed


@dataclass(frozen=True)
class Moment:
    """When the command writes an object whose path matches; `arrive`: that write is on its way and arrives later."""

    path: str
    arrive: bool


@pytest.fixture
def battered(root: Path, photos: Path, tmp_path: Path, proxy: FaultProxy, proxied: tuple) -> Iterator[Battered]:
    """A job that nothing has happened to yet."""
    job = Battered(root, photos, tmp_path, proxy, proxied[1])
    yield job
    for run in job.runs:
        run.end()


@pytest.fixture
def calm(photos: Path, tmp_path: Path, ray_local: None) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    store = open_store(f"file://{tmp_path}/calm")
    assert synthesize.main([f"source={photos}", f"store={store.url}", *ASKED]) == 0
    return contents(store)


def test_killed_once_by_every_means(battered: Battered, calm: dict[str, bytes]) -> None:
    assert battered.kill("raylet", Moment("/deblur/pool/.*json$", arrive=True))
    assert battered.kill("driver", Moment("/deblur/versions/", arrive=False))
    assert versions.list_versions(battered.store, "deblur") == []
    assert calm.items() >= contents(battered.store).items()
    assert battered.kill("gcs", Moment("/deblur/versions/", arrive=False))  # a run may end well without it
    for key in battered.store.list("jpeg/"):
        battered.store.delete(key)
    assert battered.kill("worker", Moment("/jpeg/pool/.*tar$", arrive=False))
    assert contents(battered.store) == calm


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_killed_at_random(seed: int, battered: Battered, calm: dict[str, bytes]) -> None:
    rng = random.Random(seed)
    kills = 0
    while kills < 24:
        victim = rng.choice(["driver", "driver", "worker", "raylet", "gcs"])
        task, place = rng.choice(["deblur", "sr", "jpeg"]), rng.choice(PLACES)
        moment = Moment(f"/{task}/{place}", arrive=rng.random() < 0.5)
        kills += battered.kill(victim, moment if rng.random() < 0.5 else rng.uniform(0.2, 12.0))
        left = {key: data for key, data in contents(battered.store).items() if not key.startswith("probe-")}
        assert calm.items() >= left.items()
        if len(left) == len(calm):  # it got through: back to where a kill may have left it
            unmade = rng.sample(sorted(key for key in left if "/pool/" in key), len(left) // 2)
            for key in [*unmade, *(key for key in left if "/pool/" not in key)]:
                battered.store.delete(key)
    assert battered.start().wait(120).code == 0
    assert {key: data for key, data in contents(battered.store).items() if not key.startswith("probe-")} == calm


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["first killed", "second killed"])
def test_of_two_runs_at_once_one_is_killed(victim: int, battered: Battered, calm: dict[str, bytes]) -> None:
    rng = random.Random(victim)
    runs = []
    for _ in range(2):
        runs.append(battered.start())
        time.sleep(rng.uniform(0, 3))
    time.sleep(rng.uniform(0, 6))
    runs.pop(victim).kill("driver")
    ended = runs[0].wait(240)
    assert ended.code == 0, ended.said
    assert contents(battered.store) == calm


@pytest.mark.usefixtures("ray_local")
def test_a_worker_that_dies_again_and_again_is_replaced_each_time(tmp_path: Path) -> None:
    def die_six_times(row: dict) -> dict:
        lives = Path(row["lives"])
        lives.write_bytes(lives.read_bytes() + b"x" if lives.exists() else b"x")
        if lives.stat().st_size <= 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    row = {"lives": str(tmp_path / "lives")}
    assert list(cluster.each_row(die_six_times, [row], cpus=1, alone=True)) == [row]
