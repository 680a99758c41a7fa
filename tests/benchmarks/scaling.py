"""What the platform adds to training: from one worker to two, ZeRO's stages, checkpoints, the way to the first step.

    python tests/benchmarks/scaling.py --model kgt-s

Every row is `training/run.py task=sr` on pairs of the built-in photographs, in a process and a state folder of its own;
figures are of its steps as the run itself logs them, without the first `WARM_UP`. The rows of a part take turns,
`--runs` times. `step` is the median step, in seconds; `pairs/s` and the shares come from sums over the steps, as a cost
that comes once a second is in no median. `overhead` is what they take beside data, forward, backward and optimizer: the
loop's own work, and reporting to the driver. Checkpoints are in none of these: `checkpoint, s` is what one takes beside
the steps, by its mean. Memory is what a worker's process holds on a CPU, the peak of its tensors on a GPU.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
import torch.distributed as dist

from kgt.config import preset
from kgt.model import KGT
from pipelines.storage import open_store
from tests.benchmarks.harness import arguments, interleave, print_table, start, store, timing
from training import checkpoint
from training.config import RunConfig
from training.display import PARTS as SPLIT
from training.engine import DeepSpeedEngine
from training.losses import l1
from training.step import TorchEngine, train_step

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 2
PARTS = ("workers", "zero", "checkpoints", "start")
OVERHEAD_GOAL = 0.03
SCALING_GOAL = 0.9

Record = dict[str, Any]


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--model", default="kgt-s", help="preset of the steps that are split, and of ZeRO's")
    parser.add_argument(
        "--models", nargs="*", default=["kgt-tiny", "kgt-s"], help="presets whose checkpoints are timed"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps of a run")
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs a step")
    parser.add_argument("--patch", type=int, default=48, help="side of the degraded patches")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kgt-benchmark-") as folder:
        rows: list[dict[str, Any]] = []
        more = {"goals": []}
        for part, found in _measure(Trainer(Path(folder), given.steps, given.batch_size, given.patch), given):
            print_table(part, found)
            if part in more:
                more[part] = found
            else:
                rows += [{"part": part, **row} for row in found]
            packages = ("torch", "ray", "deepspeed", "mlflow")
            store("training at scale", rows, path=given.json, packages=packages, more=more)


@dataclass(frozen=True)
class Ran:
    """A run's records, a step each, and when the command said that it is starting, made its first step, was done."""

    records: list[Record]
    moments: dict[str, float]


class Trainer:
    """Runs the command on shards that it makes first."""

    def __init__(self, folder: Path, steps: int, batch_size: int, patch: int) -> None:
        self.folder = folder
        self._settings = [f"steps={steps}", f"batch_size={batch_size}", f"patch={patch}"]
        # What one takes stands in the record of the step after it: the last one's in none.
        self._settings += [f"checkpoint_every={max(1, steps // 2)}"]
        self._count = 0
        self._shards = f"store=file://{folder}/shards"
        made = ["task=sr", "tasks.sr.scale=2", "source=sample", "crop=128", "crops=8", self._shards]
        _command(folder / "home", "pipelines/synthesize.py", *made)

    def run(self, model: str, *settings: str, home: Path | None = None) -> Ran:
        """A new run, which validates nothing on the way. home: the state's; none: a new one."""
        self._count += 1
        out = self.folder / f"run-{self._count}"
        asked = [f"model={model}", "task=sr", "topk=256", "warmup=0", "validate_every=0", "validation_pairs=1"]
        asked += [*self._settings, self._shards, f"out=file://{out}", *settings]
        moments = _command(home or out / "home", "training/run.py", *asked)
        lines = [line for path in sorted(out.glob("sr/metrics/*")) for line in path.read_text().splitlines()]
        return Ran([json.loads(line) for line in lines], moments)


def _command(home: Path, script: str, *settings: str) -> dict[str, float]:
    """Run a command of the project; seconds to lines of its progress, and to its end."""
    begun = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), *settings],
        env=environment | {"KGT_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: dict[str, float] = {}
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        for name, words in (("starting", ": starting"), ("first step", ": step ")):
            if words in line:
                seen.setdefault(name, time.perf_counter() - begun)
    if process.wait():
        raise RuntimeError(f"{script} failed:\n{''.join(said[-20:])}")
    return seen | {"whole": time.perf_counter() - begun}


def _measure(trainer: Trainer, given: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each part's rows as soon as they are there."""
    if "workers" in given.parts:
        ways = {"1 x 2 threads": ("workers=1", "cpus_per_worker=2"), "2 x 1 thread": ("workers=2", "cpus_per_worker=1")}
        workers = _in_turns(trainer, given, "workers", ways)
        yield "workers", workers
        yield "goals", goals(given.model, *workers)
    if "zero" in given.parts:
        ways = {str(stage): ("workers=2", "cpus_per_worker=1", f"zero={stage}") for stage in range(4)}
        yield "zero", _in_turns(trainer, given, "ZeRO", ways)
    if "checkpoints" in given.parts:
        with _process_group():
            yield "checkpoints", [_checkpoint(model, given.runs) for model in given.models]
    if "start" in given.parts:
        yield "start", _start(trainer, given.runs)


def _in_turns(
    trainer: Trainer, given: argparse.Namespace, what: str, ways: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    records: dict[str, list[Record]] = {way: [] for way in ways}
    for _ in range(given.runs):
        for way, settings in ways.items():
            records[way] += trainer.run(given.model, *settings).records[WARM_UP:]
    return [{what: way, "model": given.model, **split(taken)} for way, taken in records.items()]


def split(records: Sequence[Record]) -> dict[str, Any]:
    """Steps as a row: pairs a second, the share of their time that each part takes, and seconds a checkpoint."""
    seconds = [record["seconds"] for record in records]
    whole = math.fsum(seconds)
    shares = {name: math.fsum(record[name] for record in records) / whole for name in SPLIT}
    checkpoints = [record["checkpoint"] for record in records if "checkpoint" in record]
    return {
        "step": timing(seconds),
        "pairs/s": sum(record["batch_size"] for record in records) / whole,
        **shares,
        "overhead": 1 - math.fsum(shares.values()),
        "checkpoint, s": statistics.mean(checkpoints) if checkpoints else None,
        "memory, MiB": max(record["memory"] for record in records),
    }


def goals(model: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> list[dict[str, Any]]:
    ratio, overhead = two["pairs/s"] / one["pairs/s"], max(one["overhead"], two["overhead"])
    return [
        {
            "goal": "2 workers / 1 worker with 2 threads, pairs/s",
            "wanted": SCALING_GOAL,
            "measured": ratio,
            "met": ratio >= SCALING_GOAL,
        },
        {
            "goal": f"overhead of a step of {model}",
            "wanted": OVERHEAD_GOAL,
            "measured": overhead,
            "met": overhead <= OVERHEAD_GOAL,
        },
    ]


def _checkpoint(model: str, runs: int) -> dict[str, Any]:
    """A worker's checkpoint into a file store and back, beside plain torch's file of the same weights and moments."""
    ours = DeepSpeedEngine(KGT(preset(model, "sr", 2)), RunConfig(task="sr", workers=1, batch_size=1))
    network = KGT(preset(model, "sr", 2))
    plain = TorchEngine(network, torch.optim.AdamW(network.parameters()), clip=1.0)
    for engine in (ours, plain):
        train_step(engine, torch.rand(1, 3, 16, 16), torch.rand(1, 3, 32, 32), k=64, rate=1e-4, loss=l1)
    with tempfile.TemporaryDirectory(prefix="kgt-benchmark-") as name:
        folder = Path(name)
        target = open_store(f"file://{folder}/store")

        def save() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as made:
                ours.save(Path(made))
                checkpoint.save(target, "sr", 1, Path(made), {}, rank=0, gather=lambda part: [part])

        def load() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as made:
                checkpoint.fetch(target, checkpoint.latest(target, "sr"), Path(made))
                ours.load(Path(made))

        def save_plain() -> None:
            torch.save((network.state_dict(), plain.optimizer.state_dict()), folder / "plain.pt")

        def load_plain() -> None:
            weights, moments = torch.load(folder / "plain.pt")
            network.load_state_dict(weights)
            plain.optimizer.load_state_dict(moments)

        calls = {"save": save, "save, torch": save_plain, "load": load, "load, torch": load_plain}
        timings = interleave(calls, runs=runs)
        size = sum(part.bytes for part in checkpoint.latest(target, "sr").parts)
    return {"model": model, "parameters": sum(w.numel() for w in network.parameters()), "MiB": size / 2**20, **timings}


def _start(trainer: Trainer, runs: int) -> list[dict[str, Any]]:
    """From the command to the first step, of kgt-tiny: with a new MLflow database, and with one that is there."""
    rows = []
    for what, home in (("new", None), ("known", trainer.folder / "home-known")):
        moments: list[dict[str, float]] = []
        for run in range(runs + (home is not None)):  # the first one makes what the others find
            ran = trainer.run("kgt-tiny", "workers=1", "steps=1", home=home)
            if run or home is None:
                moments.append(ran.moments)
        row = {name: timing([moment[name] for moment in moments]) for name in ("starting", "first step", "whole")}
        rows.append({"MLflow's database": what, **row})
    return rows


@contextmanager
def _process_group() -> Iterator[None]:
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed insists; Ray Train sets it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    start(main)
