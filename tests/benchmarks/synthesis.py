"""Pairs a second of the shard factory, for each task: the Ray job, one process without Ray, and the floor.

    python tests/benchmarks/synthesis.py --pairs 192 --crop 256

`job`: shards made by Ray Data on all cores. `process`: the same shards by one process, no Ray. `floor`: one process
that reads and decodes the sources, encodes both images, and puts the tar; it does not degrade, nor measure PSNR. The
three take turns, `--runs` times; figures are medians. `degrade` is the degradation alone, `peer` the nearest transform
of albumentations on the same crops, both in one process. (Its rain, snow and blur follow no physics, its noise is
clipped.)
"""

import hashlib
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import cv2
import numpy as np

from kgt.imaging import read_image, to_rgb
from kgt.tasks import TASKS
from pipelines import cluster
from pipelines.degradations import degrade_region, pair_rng, settings_of
from pipelines.plan import PlannedShard, plan, recipe_of
from pipelines.shards import Sample, encode_pair, write_shard
from pipelines.sources import list_sources
from pipelines.storage import Store, open_store
from pipelines.survey import survey
from pipelines.synthesis import make_shard, pairs_of
from pipelines.versions import pool_key
from tests.benchmarks.harness import arguments, report, start

PEERS: dict[str, tuple[albumentations.BasicTransform, ...]] = {
    "deblur": (albumentations.MotionBlur(blur_limit=(7, 31), p=1),),
    "jpeg": (albumentations.ImageCompression(quality_range=(10, 40), p=1),),
    "denoise": (albumentations.GaussNoise(std_range=(0.0, 0.2), p=1),),
    "weather": (albumentations.RandomRain(p=1), albumentations.RandomSnow(p=1), albumentations.Spatter(p=1)),
    "sr": (albumentations.Downscale(scale_range=(0.5, 0.5), p=1),),
}


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--task", nargs="*", default=list(TASKS), choices=TASKS, metavar="TASK", help="tasks to measure"
    )
    parser.add_argument("--pairs", type=int, default=192, help="pairs of a run, about")
    parser.add_argument("--crop", type=int, default=256, help="side of a clean crop, pixels")
    parser.add_argument("--runs", type=int, default=5, help="turns of each of the three")
    given = parser.parse_args()

    cluster.connect()
    cv2.setNumThreads(1)  # as in the job's tasks
    sources = [source for source in list_sources("sample", "") if source.split == "train"]
    images = survey(sources, given.crop, 0.5).images
    common = {"seed": 0, "crop": given.crop, "grid": None, "max_flatness": 0.9, "paired": False}
    common |= {"val_fraction": 0.0, "shard_mib": 256.0, "shards_min": 16}
    rows = []
    for task in given.task:
        recipe = recipe_of(task, {}, crops=-(-given.pairs // len(images)), **common)
        rows.append(_measure(task, [shard for shard in plan(recipe, images, 1) if shard.split == "train"], given.runs))
    packages = ("ray", "numpy", "pillow", "opencv-python-headless", "albumentations")
    report("shard synthesis, pairs/s", rows, path=given.json, packages=packages)


def _measure(task: str, shards: Sequence[PlannedShard], runs: int) -> dict[str, object]:
    ready = {shard.name: [pair for part in shard.parts for pair in pairs_of(part, shard)] for shard in shards}

    def job(store: Store) -> None:
        planned = [{"shard": shard, "store": store} for shard in shards]
        assert len(list(cluster.each_row(make_shard, planned, cpus=1, alone=True))) == len(shards)

    def process(store: Store) -> None:
        for shard in shards:
            make_shard({"shard": shard, "store": store})

    def floor(store: Store) -> None:
        for shard in shards:
            _put_ready(shard, ready[shard.name], store)

    pairs = sum(shard.samples for shard in shards)
    ways: tuple[Callable[[Store], None], ...] = (job, process, floor)
    seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
    alone: list[float] = []
    peers: list[float] = []
    for run in range(runs + 1):
        for way in ways:
            elapsed = _time(way)
            if run:  # the first turn warms up Ray's workers and the page cache
                seconds[way.__name__].append(elapsed)
        degraded, peer = _degrade(task, shards)
        if run:
            alone.append(degraded)
            peers.append(peer)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    spread = {name: f"{pairs / max(values):.0f}-{pairs / min(values):.0f}" for name, values in seconds.items()}
    return {
        "task": task,
        "pairs": pairs,
        **{f"{name}, pairs/s": pairs / value for name, value in median.items()},
        "job, range": spread["job"],
        "job / process": median["process"] / median["job"],
        "floor, ms/pair": 1e3 * median["floor"] / pairs,
        "degrade, ms/pair": 1e3 * statistics.median(alone) / pairs,
        "degrade / floor": statistics.median(alone) / median["floor"],
        "peer, ms/pair": 1e3 * statistics.median(peers) / pairs if task in PEERS else None,
    }


def _put_ready(shard: PlannedShard, pairs: Sequence[tuple], store: Store) -> None:
    """A shard of pairs that exist: all the work but theirs."""
    for part in shard.parts:
        to_rgb(read_image(part.image.source.read()))

    def samples() -> Iterator[Sample]:
        for key, pair, record in pairs:
            yield encode_pair(key, pair.clean, pair.degraded, record)

    with tempfile.TemporaryFile() as spool:
        write_shard(samples(), spool)
        spool.seek(0)
        sha256 = hashlib.file_digest(spool, "sha256").hexdigest()
        store.put(pool_key(shard.recipe.task, shard.name), spool, sha256=sha256)


def _degrade(task: str, shards: Sequence[PlannedShard]) -> tuple[float, float]:
    """Seconds of the degradations alone, of all pairs: ours, and the peer's."""
    ours = theirs = 0.0
    peers = itertools.cycle(PEERS.get(task, ()))
    for shard in shards:
        settings = settings_of(task, shard.recipe.settings)
        for part in shard.parts:
            pixels = to_rgb(read_image(part.image.source.read()))
            for crop in shard.recipe.crops_of(part.image, shard.epoch)[part.first : part.last]:
                rng = pair_rng(shard.recipe.seed, shard.epoch, task, part.image.digest, crop)
                start = time.perf_counter()
                pair = degrade_region(task, pixels, crop, settings, rng)
                ours += time.perf_counter() - start
                if task in PEERS:
                    peer, clean = next(peers), np.ascontiguousarray(pair.clean)
                    start = time.perf_counter()
                    peer(image=clean)
                    theirs += time.perf_counter() - start
    return ours, theirs


def _time(way: Callable[[Store], None]) -> float:
    folder = Path(tempfile.mkdtemp(prefix="kgt-benchmark-"))
    try:
        start = time.perf_counter()
        way(open_store(f"file://{folder}"))
        return time.perf_counter() - start
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    start(main)
