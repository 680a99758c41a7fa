"""Stopped, killed, or given other workers: a run goes on as if nothing had been.

Its drivers are processes of their own with a Ray of their own, so that what is killed is nobody else's. Everything
random is on: fresh noise, flips, shuffling over several epochs, the k of a step, the average of the weights; and
every step has two micro-steps.
"""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from pipelines.storage import open_store, read_json
from tests.training.conftest import MakeShards
from training import checkpoint

STEPS = 20
SETTINGS = [f"steps={STEPS}", "batch_size=4", "patch=16", "checkpoint_every=7", "warmup=4", "task=denoise"]
SETTINGS += ["validate_every=5", "validation_pairs=3", "validate_k=64", "accumulate=2"]


@dataclass
class Run:
    """A training of 20 steps in a folder of its own; an epoch is 6 steps, and checkpoints come after 7 and 14."""

    root: Path
    store: str
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def start(self, *argv: str, script: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The command, running. script: what Python is given instead of the entry script."""
        settings = [f"store={self.store}", f"out={self.out}", *SETTINGS, *argv]
        return subprocess.Popen(
            [sys.executable, *(script or [str(self.root / "training" / "run.py")]), *settings],
            env={**os.environ, "KGT_HOME": str(self.folder), "PYTHONPATH": str(self.root)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def command(self, *argv: str, script: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        process = self.start(*argv, script=script)
        stdout, stderr = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def wait_for_checkpoint(self, step: int, process: subprocess.Popen[str], task: str = "denoise") -> None:
        marker = self.out / task / "checkpoints" / f"{step:08d}" / checkpoint.MARKER
        while not marker.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    def history(self, metric: str) -> list[tuple[int, float]]:
        """The metric of every step, as MLflow has it."""
        record = json.loads((self.out / "denoise" / "run.json").read_text())
        query = "select step, value from metrics where run_uuid = ? and key = ? order by step"
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            return list(database.execute(query, (record["mlflow_run"], metric)))

    def weights(self, file: str = "weights.safetensors") -> dict[str, bytes]:
        """The result, to the bit."""
        tensors = load_file(self.out / "denoise" / file)
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


ON_ONE_CORE = """
import sys
from pipelines import cluster
cluster.connect(cores=1)
from training.run import main
sys.exit(main(sys.argv[1:]))
"""

OF_A_SHORT_LEASE = """
import sys
from training import lock
lock.RUN_LEASE = 6.0
from training.run import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def run(root: Path, denoise_store: str, tmp_path: Path, empty_mlflow_database: Path) -> Run:
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow_database.read_bytes())
    return Run(root, denoise_store, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(
    root: Path, denoise_store: str, tmp_path_factory: pytest.TempPathFactory, empty_mlflow_database: Path
) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "mlflow.db").write_bytes(empty_mlflow_database.read_bytes())
    run = Run(root, denoise_store, folder)
    ended = run.command()
    assert ended.returncode == 0, ended.stderr
    return run


def stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """As a terminal does with Ctrl-C, which all processes of the command hear, or as a supervisor does."""
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in "".join(child.cmdline())]


def kill_worker(process: subprocess.Popen[str]) -> None:
    workers_of(process)[-1].kill()


def kill_driver(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_ray(process: subprocess.Popen[str]) -> None:
    next(child for child in psutil.Process(process.pid).children() if child.name() == "raylet").kill()


@pytest.mark.parametrize(
    ("kill", "code", "says"),
    [
        (kill_driver, -signal.SIGKILL, ""),
        pytest.param(kill_worker, 1, "a worker process died", marks=pytest.mark.slow),
        pytest.param(kill_ray, 2, "error: Ray died under the run", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_anywhere_it_ends_in_the_same_bits(
    run: Run, undisturbed: Run, kill: object, code: int, says: str, seed: int
) -> None:
    """And MLflow has every step once, also those that it had not heard of when the driver died."""
    rng = random.Random(seed)
    process = run.start("max_failures=0")
    run.wait_for_checkpoint(rng.choice([7, 14]), process)
    time.sleep(rng.uniform(0, 0.5))
    assert not (run.out / "denoise" / "weights.safetensors").exists(), "it has trained to the end already"
    kill(process)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert says in stdout + stderr
    assert "Connecting to existing Ray cluster" not in stderr
    again = run.command()
    assert again.returncode == 0, again.stderr
    for metric in ("loss", "val_psnr", "val_raw_psnr_k64"):
        assert run.history(metric) == undisturbed.history(metric)
    assert [step for step, _ in run.history("k")] == list(range(1, STEPS + 1))
    assert [step for step, _ in run.history("val_raw_psnr")] == [5, 10, 15]
    for file in ("weights.safetensors", "best.safetensors"):
        assert run.weights(file) == undisturbed.weights(file)


def test_a_second_driver_is_refused_and_one_whose_run_was_taken_over_ends(run: Run) -> None:
    """In one line each, and what is left is the other's: the lock, and the run in MLflow, which is not ended."""
    first = run.start("steps=100000", script=["-c", OF_A_SHORT_LEASE])
    try:
        run.wait_for_checkpoint(7, first)
        second = run.command("steps=100000")
        assert second.returncode == 2, second.stderr
        who = rf"\S+ on \S+ \(process {first.pid}\)"
        way = "wait for it, stop it, or give another out="
        assert re.fullmatch(
            rf"error: the run file://{run.out} is being trained by {who} since .*: {way}; .*\n", second.stderr
        )
        store = open_store(f"file://{run.out}")
        taken = read_json(store, "lock.json") | {"holder": "me on another machine", "process": "", "mark": "another"}
        store.put("lock.json", json.dumps(taken).encode())
        stdout, stderr = first.communicate(timeout=120)
        assert first.returncode == 2, stderr
        assert (
            f"error: the lock of the run {store.url} was taken over by me on another machine" in stderr.splitlines()[-1]
        )
        assert "Traceback" not in stdout + stderr
        assert read_json(store, "lock.json") == taken
        with sqlite3.connect(run.folder / "mlflow.db") as database:
            assert list(database.execute("select distinct status from runs")) == [("RUNNING",)]
    finally:
        first.kill()


@pytest.mark.slow
def test_a_killed_run_of_mixed_datasets_ends_in_the_same_bits(run: Run, make_shards: MakeShards) -> None:
    """Other threads of the loader change nothing, either."""
    run.store = f"[{run.store},{make_shards('denoise', shards=7, samples=3, sigma=50)}]"
    whole = Run(run.root, run.store, run.folder / "undisturbed")
    ended = whole.command("weights=[3,1]")
    assert ended.returncode == 0, ended.stderr
    process = run.start("weights=[3,1]", "loader_threads=3")
    run.wait_for_checkpoint(14, process)
    kill_driver(process)
    process.communicate(timeout=120)
    again = run.command("weights=[3,1]", "loader_threads=1")
    assert again.returncode == 0, again.stderr
    assert run.history("loss") == whole.history("loss")
    assert run.weights() == whole.weights()


@pytest.mark.parametrize(
    ("number", "zero", "workers"),
    [
        pytest.param(signal.SIGTERM, 1, (2, 1), marks=pytest.mark.slow),
        *(
            pytest.param(signal.SIGINT, zero, workers, marks=pytest.mark.slow)
            for zero in range(4)
            for workers in ((2, 1), (1, 2))
        ),
    ],
)
def test_stopped_it_leaves_a_checkpoint_and_other_workers_go_on(
    run: Run, undisturbed: Run, number: signal.Signals, zero: int, workers: tuple[int, int]
) -> None:
    """The same batches; their gradients are summed in another order."""
    process = run.start(f"zero={zero}", f"workers={workers[0]}")
    run.wait_for_checkpoint(7, process)
    stop(process, number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "stopped: the same command goes on" in stdout
    assert "Traceback" not in stderr
    *_, stopped = sorted((run.out / "denoise" / "checkpoints").iterdir())
    assert 7 < int(stopped.name) < STEPS
    assert (stopped / checkpoint.MARKER).exists()
    assert json.loads((run.out / "lock.json").read_text()) == {}
    again = run.command(f"zero={zero}", f"workers={workers[1]}")
    assert again.returncode == 0, again.stderr
    check_alike(run, undisturbed)


@pytest.mark.slow
def test_tasks_side_by_side_are_stopped_together_and_go_on(run: Run, make_shards: object) -> None:
    make_shards("sr", store=run.store)
    tasks = ("task=[denoise,sr]", "workers=1", "checkpoint_every=2")
    process = run.start(*tasks)
    for task in ("denoise", "sr"):
        run.wait_for_checkpoint(2, process, task)
    assert not list(run.out.glob("*/weights.safetensors"))
    stop(process, signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert stdout.count("stopped: the same command goes on") == 2
    again = run.command(*tasks)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("registered as challenger") == 2
    assert [step for step, _ in run.history("k")] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_with_min_workers_it_goes_on_where_machines_are_missing(run: Run, undisturbed: Run) -> None:
    """Two workers are wanted; first there are cores for two, then for one."""
    process = run.start("workers=2", "min_workers=1")
    run.wait_for_checkpoint(7, process)
    process.kill()
    process.communicate()
    again = run.command("workers=2", "min_workers=1", script=["-c", ON_ONE_CORE])
    assert again.returncode == 0, again.stderr
    (last,) = (run.out / "denoise" / "checkpoints").glob(f"{STEPS:08d}/{checkpoint.MARKER}")
    assert json.loads(last.read_text())["state"]["workers"] == 1
    check_alike(run, undisturbed)


def check_alike(run: Run, other: Run) -> None:
    """Every step once, with the same batches and k, and the losses within what another order of summing makes."""
    for metric in ("loss", "k", "lr"):
        (steps, values), (_, expected) = (zip(*of.history(metric), strict=True) for of in (run, other))
        assert steps == tuple(range(1, STEPS + 1))
        assert values == pytest.approx(expected, rel=1e-4)
    (steps, values), (others, expected) = (zip(*of.history("val_psnr"), strict=True) for of in (run, other))
    assert steps == others
    assert values == pytest.approx(expected, abs=0.01)
