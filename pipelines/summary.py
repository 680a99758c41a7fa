"""What a run of the factory says at its end, to people and as JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.estimate import Estimate
from pipelines.manifest import SPLITS, Manifest
from pipelines.memory import peak_mib
from pipelines.plan import PlannedShard, Recipe
from pipelines.survey import Survey


@dataclass
class Summary:
    """The figures of a run that makes shards. `up_to_date`: the versions of tasks with nothing to do."""

    store: str
    up_to_date: dict[str, str] = field(default_factory=dict)
    survey_seconds: float = 0.0
    manifests: list[Manifest] = field(default_factory=list)
    pairs: int = 0
    seconds: float = 0.0
    shards_made: int = 0
    shards_kept: int = 0
    worker_peak_mib: float = 0.0
    rejects: dict[str, int] = field(default_factory=dict)
    rejects_listed: str = ""

    @property
    def rate(self) -> float:
        """Pairs made a second."""
        return self.pairs / self.seconds if self.seconds else 0.0

    @property
    def bytes(self) -> int:
        """Of all shards of the versions."""
        return sum(shard.bytes for manifest in self.manifests for shard in manifest.shards)

    def record(self) -> dict[str, Any]:
        """For a JSON report. Sizes in MiB are of memory, peaks of a whole process."""
        return {
            "store": self.store,
            "up_to_date": self.up_to_date,
            "tasks": {m.task: {"version": m.version, "digest": m.digest, **m.statistics} for m in self.manifests},
            "survey_seconds": round(self.survey_seconds, 3),
            "pairs_made": self.pairs,
            "seconds": round(self.seconds, 3),
            "pairs_per_second": round(self.rate, 2),
            "shards": {"made": self.shards_made, "kept": self.shards_kept},
            "bytes": self.bytes,
            "rejects": self.rejects,
            "rejects_listed": self.rejects_listed,
            "peak_mib": {"driver": round(peak_mib(), 1), "worker": round(self.worker_peak_mib, 1)},
        }

    def print(self, console: Console) -> None:
        """The closing table and lines."""
        if self.manifests:
            console.print(_versions_table(self.manifests))
            console.print(
                f"{self.pairs} pairs made in {self.seconds:.0f} s ({self.rate:.1f} pairs/s), "
                f"{self.shards_kept} of {self.shards_made + self.shards_kept} shards were there already; "
                f"{self.bytes / 2**20:.1f} MiB in {self.store}; peak memory of a worker {self.worker_peak_mib:.0f} MiB",
                soft_wrap=True,
            )


def say_rejects(console: Console, seen: Survey, total: int, listed: str = "") -> None:
    """How many source images are not used, and why. `listed`: where each of them is."""
    if seen.rejects:
        reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(r.reason for r in seen.rejects).most_common())
        where = f", listed in {listed}" if listed else ""
        console.print(f"{len(seen.rejects)} of {total} source images not used: {reasons}{where}", soft_wrap=True)


def plan_table(plans: Sequence[tuple[Recipe, Sequence[PlannedShard], Estimate]], cores: float) -> Table:
    """What would be made of each task, and at what cost on so many cores."""
    table = Table("task", "crop", title="the plan (Ray's start and the survey not counted)", title_justify="left")
    columns = ("train images", "train pairs", "train shards", "val images", "val pairs", "val shards", "about MiB")
    for column in (*columns, "core-hours", f"on {cores:g} cores"):
        table.add_column(column, justify="right")
    for recipe, planned, cost in plans:
        cells: list[Any] = []
        for split in SPLITS:
            shards = [shard for shard in planned if shard.split == split]
            images = {part.image.digest for shard in shards for part in shard.parts}
            cells += [len(images), sum(shard.samples for shard in shards), len(shards)]
        cells += [f"{cost.bytes / 2**20:.1f}", f"{cost.core_seconds / 3600:.3g}", _duration(cost.core_seconds / cores)]
        table.add_row(recipe.task, str(recipe.side), *map(str, cells))
    return table


def plan_record(
    plans: Sequence[tuple[Recipe, Sequence[PlannedShard], Estimate]], cores: float, seen: Survey
) -> dict[str, Any]:
    """The plan for a JSON report."""
    tasks = {
        recipe.task: {
            "shards": len(shards),
            "pairs": sum(shard.samples for shard in shards),
            "bytes": round(cost.bytes),
            "core_seconds": round(cost.core_seconds, 3),
        }
        for recipe, shards, cost in plans
    }
    return {"plan": tasks, "cores": cores, "rejects": [reject.record() for reject in seen.rejects]}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _versions_table(manifests: Sequence[Manifest]) -> Table:
    table = Table("task", "version", title_justify="left")
    for column in ("train pairs", "shards", "val pairs", "shards", "MiB", "mean input PSNR, dB"):
        table.add_column(column, justify="right")
    for manifest in manifests:
        train, val = (manifest.statistics[split] for split in SPLITS)
        size = (train["bytes"] + val["bytes"]) / 2**20
        counts = (train["pairs"], train["shards"], val["pairs"], val["shards"])
        table.add_row(manifest.task, manifest.version, *map(str, counts), f"{size:.1f}", f"{train['input_psnr']:.2f}")
    return table
