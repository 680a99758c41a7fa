"""Pairs a second of the shard factory, for each task: the Ray job, one process without Ray, and the floor.

    python tests/benchmarks/synthesis.py --pairs 192 --crop 256

`job`: shards made by Ray Data on all cores. `process`: the same shards by one process, no Ray. `floor`: one process
that does all but degrade (read and decode the sources, encode both images, tar, put). The three take turns, `--runs`
times; figures are medians. `degrade` is what a pair's degradation costs: process less floor.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from kgt.tasks import TASKS
from pipelines import cluster, synthesis
from pipelines.degradations import Pair
from pipelines.factory import list_sources, survey
from pipelines.plan import Part, PlannedShard, plan, recipe_of
from pipelines.storage import Store, open_store
from tests.benchmarks.harness import arguments, report


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="*", default=list(TASKS), help="tasks to measure")
    parser.add_argument("--pairs", type=int, default=96, help="pairs of a run, about")
    parser.add_argument("--crop", type=int, default=256, help="side of a clean crop, pixels")
    parser.add_argument("--runs", type=int, default=3, help="turns of each of the three")
    given = parser.parse_args()

    cluster.connect()
    sources = [source for source in list_sources("sample", "") if source.split == "train"]
    images = survey(sources, given.crop, 0.5).images
    common = {
        "seed": 0,
        "crop": given.crop,
        "grid": None,
        "max_flatness": 0.9,
        "paired": False,
        "val_fraction": 0.0,
        "shard_mib": 256.0,
        "shards_min": 16,
    }
    rows = []
    for task in given.task:
        recipe = recipe_of(task, {}, crops=-(-given.pairs // len(images)), **common)
        rows.append(_measure(task, [shard for shard in plan(recipe, images, 1) if shard.split == "train"], given.runs))
    report(
        "shard synthesis, pairs/s", rows, path=given.json, packages=("ray", "numpy", "pillow", "opencv-python-headless")
    )


def _measure(task: str, shards: Sequence[PlannedShard], runs: int) -> dict[str, object]:
    ready = {(shard.name, part): list(synthesis.pairs_of(part, shard)) for shard in shards for part in shard.parts}

    def no_degradation(part: Part, shard: PlannedShard) -> Iterator[tuple[str, Pair, dict]]:
        synthesis._read(part)
        yield from ready[shard.name, part]

    def job(store: Store) -> None:
        planned = [{"shard": shard, "store": store} for shard in shards]
        assert len(list(cluster.each_row(synthesis.make_shard, planned, cpus=1, alone=True))) == len(shards)

    def process(store: Store) -> None:
        for shard in shards:
            synthesis.make_shard({"shard": shard, "store": store})

    def floor(store: Store) -> None:
        with mock.patch.object(synthesis, "pairs_of", no_degradation):
            process(store)

    pairs = sum(shard.samples for shard in shards)
    ways: tuple[Callable[[Store], None], ...] = (job, process, floor)
    seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for run in range(runs + 1):
        for way in ways:
            elapsed = _time(way)
            if run:  # the first turn warms up Ray's workers and the page cache
                seconds[way.__name__].append(elapsed)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    degrade = (median["process"] - median["floor"]) / pairs
    return {
        "task": task,
        "pairs": pairs,
        **{f"{name}, pairs/s": pairs / value for name, value in median.items()},
        "job / process": median["process"] / median["job"],
        "floor, ms/pair": 1e3 * median["floor"] / pairs,
        "degrade, ms/pair": 1e3 * degrade,
        "degrade / floor": degrade * pairs / median["floor"],
    }


def _time(way: Callable[[Store], None]) -> float:
    folder = Path(tempfile.mkdtemp(prefix="kgt-benchmark-"))
    try:
        start = time.perf_counter()
        way(open_store(f"file://{folder}"))
        return time.perf_counter() - start
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
