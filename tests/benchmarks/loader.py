"""Pairs a second of the training loader, beside webdataset alone on the same shards and what training steps take.

    python tests/benchmarks/loader.py --source /data/BSDS500_train --json docs/results/loader-cpu.json
    python tests/benchmarks/loader.py --demand 900 --loader-threads 2 4 8 --models

`webdataset` is its own pipeline in one process, `WebDataset(shards).decode(pixels)`: members are read one after another
and Pillow decodes them to arrays; that is all. `loader` is what a training worker does: every shard's SHA-256 is taken,
samples are shuffled, cut to patches, flipped, and stacked to float32 batches. With 0 threads it works in one, as
webdataset does; else one thread reads and so many decode and augment. Each way reads all pairs once; they take turns,
and `x webdataset` is the median of the turns' own ratios. `CPU` is processor time of this process, in all its threads,
and of the processes that it started for the turn, which other work on the machine changes little. The store `s3` is a
server of moto in a process of its own, which is not counted; webdataset reads it through curl, a process a shard, by
presigned addresses.

The second table sets the loader (as many threads as a run has by default) against steps: alone on a batch in memory,
and fed by the loader beside it, with the share of the time that they waited for data.
"""

import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import boto3
import numpy as np
import torch
import webdataset
from botocore.config import Config
from PIL import Image

from kgt.config import preset
from kgt.model import KGT
from kgt.tasks import TASKS
from pipelines.plan import plan, recipe_of
from pipelines.sources import list_sources
from pipelines.storage import Store, open_store
from pipelines.survey import survey
from pipelines.synthesis import make_shard
from pipelines.versions import pool_key
from tests.benchmarks.harness import arguments, device_arguments, device_of, print_table, report, start, store
from tests.ports import free_port
from training.config import RunConfig
from training.data import Batch, Prefetcher, batches, undone_batches
from training.losses import charbonnier
from training.phases import Phase
from training.plan import DataPlan, Dataset, Shard
from training.step import TorchEngine, train_step

SHARDS = 12
"""As many streams, so that an epoch's last batch comes when all shards are read, and not before."""

THREADS = RunConfig().loader_threads
BUCKET = "shards"
TASK_OF = {"kgt-s": "sr"}
"""Of a model that is not for denoising."""


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    device_arguments(parser, "float32", "bfloat16", of="the steps")
    parser.add_argument("--source", default="sample", help="the clean images: a folder, or the built-in sample")
    parser.add_argument("--task", nargs="*", default=["denoise", "sr", "jpeg"], choices=TASKS, metavar="TASK")
    parser.add_argument("--store", nargs="*", default=["file", "s3"], choices=("file", "s3"))
    parser.add_argument("--pairs", type=int, default=768, help="pairs of a task, about")
    parser.add_argument("--crop", type=int, default=256, help="side of the clean images, pixels")
    parser.add_argument("--patch", type=int, default=64, help="side of the degraded patches, pixels")
    parser.add_argument("--batch", type=int, default=8, help="pairs of a batch")
    parser.add_argument("--loader-threads", nargs="*", type=int, default=[0, 1, 2, 4], metavar="N")
    parser.add_argument("--models", nargs="*", default=["kgt-tiny", "kgt-s"], help="whose steps are fed")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--demand", type=float, metavar="PAIRS_PER_S", help="what another machine's step takes")
    parser.add_argument("--runs", type=int, default=5, help="turns")
    given = parser.parse_args()
    device, dtype = device_of(given)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kgt-benchmark-"))
        local = open_store(f"file://{folder}")
        plans = {task: _make(task, local, given) for task in dict.fromkeys([*given.task, *map(_task, given.models)])}
        client = stack.enter_context(_s3_server()) if "s3" in given.store else None
        for task in given.task:
            if "file" in given.store:
                rows += _measure("file", plans[task], lambda key: f"{folder}/{key}", given)
            if client:
                copied = _copied(plans[task], local)
                rows += _measure("s3", copied, partial(_address, client), given)
        packages = ("torch", "webdataset", "pillow", "numpy", "boto3", "moto")
        more = {"load": f"{os.getloadavg()[1]:.1f} processes running on average of the last 5 minutes"}
        report("loading, pairs/s", rows, path=given.json, packages=packages, more=more, device=given.device)
        fed = [_feed(model, plans[_task(model)], device, dtype, given) for model in given.models]
    if fed:
        print_table("training steps, pairs/s", fed)
        more["steps"] = fed
        store("loading, pairs/s", rows, path=given.json, packages=packages, more=more, device=given.device)


def _task(model: str) -> str:
    return TASK_OF.get(model, "denoise")


def _make(task: str, store: Store, given: Any) -> DataPlan:
    """The shards of a version, made without a cluster, and how a run would read them."""
    sources = [source for source in list_sources(given.source, "") if source.split != "val"]
    images = survey(sources, given.crop, 0.5).images
    common = {"seed": 0, "crop": given.crop, "grid": None, "max_flatness": 0.9, "paired": False}
    common |= {"val_fraction": 0.0, "shard_mib": 256.0, "shards_min": SHARDS}
    recipe = recipe_of(task, {}, crops=-(-given.pairs // len(images)), **common)
    planned = [shard for shard in plan(recipe, images, 1) if shard.split == "train"]
    entries = [make_shard({"shard": shard, "store": store})["entry"] for shard in planned]
    shards = tuple(Shard(pool_key(task, e.name), e.samples, e.bytes, e.sha256) for e in entries)
    dataset = Dataset(store.url, "v000001", "", shards, ())
    phases = (Phase(0, given.patch, given.batch),)
    return DataPlan(task, (dataset,), len(shards), seed=0, phases=phases, shuffle=RunConfig().shuffle)


def _measure(store: str, read: DataPlan, address: Callable[[str], str], given: Any) -> list[dict[str, Any]]:
    """A row for webdataset, and one for each number of threads. address: where webdataset finds a shard, by its key."""
    (dataset,) = read.datasets
    pairs = sum(shard.samples for shard in dataset.shards)
    ways = {"webdataset": lambda: _webdataset([address(shard.key) for shard in dataset.shards])}
    ways |= {f"loader, {n} threads": partial(_loader, read, n, pairs // given.batch) for n in given.loader_threads}
    turns = _turns(ways, given.runs)
    rows = []
    for name, taken in turns.items():
        walls, cpus = zip(*taken, strict=True)
        against = [
            statistics.median(theirs / ours for theirs, ours in zip(whole, own, strict=True))
            for whole, own in zip(zip(*turns["webdataset"], strict=True), (walls, cpus), strict=True)
        ]
        row = {"store": store, "task": read.task, "reader": name, "pairs": pairs}
        row |= {
            "pairs/s": pairs / statistics.median(walls),
            "range": f"{pairs / max(walls):.0f}-{pairs / min(walls):.0f}",
        }
        row |= {"CPU, ms/pair": 1e3 * statistics.median(cpus) / pairs}
        row |= dict(zip(("x webdataset", "x webdataset, CPU"), against, strict=True))
        row |= {"x demand": row["pairs/s"] / given.demand} if given.demand else {}
        rows.append(row)
    return rows


def _turns(ways: Mapping[str, Callable[[], None]], runs: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of every way in every turn; the first, a warm-up, is left out."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(1 + runs):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), _processor_seconds()
            way()
            seconds[name].append((time.perf_counter() - wall, _processor_seconds() - cpu))
    return {name: taken[1:] for name, taken in seconds.items()}


def _processor_seconds() -> float:
    """This process's, and its children's that have ended: curl's have when webdataset is through."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _webdataset(urls: Sequence[str]) -> None:
    for sample in webdataset.WebDataset(list(urls), shardshuffle=False).decode(_pixels):
        assert len(sample) >= 3


def _pixels(name: str, data: bytes) -> np.ndarray | None:
    """webdataset's hook for members that it does not decode by itself."""
    if name.endswith((".webp", ".tiff")):
        return np.asarray(Image.open(BytesIO(data)))
    return None


def _loader(read: DataPlan, threads: int, count: int) -> None:
    if not threads:
        for _ in itertools.islice(batches(read, rank=0, workers=1, step=0), count):
            pass
        return
    with closing(Prefetcher(undone_batches(read, rank=0, workers=1, step=0), threads)) as loader:
        for _ in range(count):
            next(loader)


def _feed(model: str, read: DataPlan, device: torch.device, dtype: torch.dtype, given: Any) -> dict[str, Any]:
    """Steps alone and steps fed, in turns."""
    torch.manual_seed(0)
    network = KGT(preset(model, read.task, 2 if read.task == "sr" else 1)).to(device)
    engine = TorchEngine(network, torch.optim.AdamW(network.parameters()), clip=1.0)
    waits: list[float] = []

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            train_step(engine, batch.degraded.to(device), batch.clean.to(device), k=256, rate=1e-4, loss=charbonnier)

    with closing(Prefetcher(undone_batches(read, rank=0, workers=1, step=0), THREADS)) as loader:
        held = next(loader)
    seconds: dict[str, list[float]] = {"alone": [], "fed": []}
    for turn in range(1 + given.runs):
        begun = time.perf_counter()
        for _ in range(given.steps):
            step(held)
        alone = time.perf_counter() - begun
        with closing(Prefetcher(undone_batches(read, rank=0, workers=1, step=0), THREADS)) as loader:
            step(next(loader))  # a run's first batch has nothing to be made beside
            begun, waited = time.perf_counter(), 0.0
            for _ in range(given.steps):
                batch = next(loader)
                waited += loader.waited
                step(batch)
            whole = time.perf_counter() - begun
        if turn:
            seconds["alone"].append(alone)
            seconds["fed"].append(whole)
            waits.append(waited / whole)
    pairs = given.steps * given.batch
    return {
        "model": model,
        "task": read.task,
        "patch": given.patch,
        "pairs a step": given.batch,
        **{f"{name}, pairs/s": pairs / statistics.median(taken) for name, taken in seconds.items()},
        "waited, %": 100 * statistics.median(waits),
        "loader threads": THREADS,
    }


@contextmanager
def _s3_server() -> Iterator[Any]:
    """A client of an S3 server with the bucket `shards`; the standard AWS variables point to it."""
    port = free_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = boto3.client("s3", config=Config(retries={"max_attempts": 12, "mode": "standard"}))
        client.create_bucket(Bucket=BUCKET)  # tried again until the server has started
        yield client
    finally:
        server.terminate()
        server.wait()


def _copied(read: DataPlan, local: Store) -> DataPlan:
    """The plan that reads the same shards from the server, where they are put."""
    (dataset,), there = read.datasets, open_store(f"s3://{BUCKET}")
    for shard in dataset.shards:
        there.put(shard.key, local.get(shard.key))
    return replace(read, datasets=(replace(dataset, store=there.url),))


def _address(client: Any, key: str) -> str:
    return client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key})


if __name__ == "__main__":
    start(main)
