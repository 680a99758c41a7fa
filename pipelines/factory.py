"""The factory: from options to published versions. Survey, plan, shards, manifest; what the entry scripts run."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kgt.errors import UserError
from kgt.imaging.files import check_writable as check_image_writable
from pipelines import cluster, preview, versions
from pipelines.options import about, expand_tasks
from pipelines.plan import SPLITS, PlannedShard, Recipe, fingerprint, identity, pair_bytes, plan, recipe_of
from pipelines.progress import Meter
from pipelines.sources import list_sources
from pipelines.storage import Store, check_writable, open_store
from pipelines.survey import Reject, Survey, survey
from pipelines.synthesis import make_shard
from pipelines.versions import Manifest, ShardEntry


@dataclass
class Options:
    """What `synthesize.py` takes."""

    task: Any = field(default="all", metadata=about("one task, several as [sr,denoise], or all"))
    source: str = field(
        default="sample", metadata=about("clean images: a folder, s3://bucket/folder, or sample (built-in photographs)")
    )
    store: str = field(
        default="", metadata=about("where shards go: file:///folder or s3://bucket/folder [$KGT_HOME/shards]")
    )
    licence: str = field(
        default="unspecified", metadata=about("licence tag recorded with every pair (the sample has its own)")
    )
    limit: int | None = field(default=None, metadata=about("use the first so many source images only"))
    crop: int = field(default=256, metadata=about("side of a clean crop, pixels"))
    crops: int = field(default=16, metadata=about("crops of one image"))
    seed: int = field(default=0, metadata=about("seed of everything random"))
    val_fraction: float = field(default=0.05, metadata=about("share of the source images kept for validation"))
    max_reject_fraction: float = field(
        default=0.5, metadata=about("more unusable source images than this fail the run")
    )
    shard_mib: float = field(default=256.0, metadata=about("size of a shard aimed at, MiB"))
    shards_min: int = field(
        default=24, metadata=about("training shards at least, where there are as many pairs: what workers share out")
    )
    preview: str | None = field(
        default=None, metadata=about("write a contact sheet (clean and degraded) to this image file")
    )
    plan_only: bool = field(default=False, metadata=about("say what would be made, and make no shards"))
    tasks: dict[str, dict[str, Any]] = field(
        default_factory=dict, metadata=about("tasks.<task>.<setting>=10, [10,20] or {min: 10, max: 20}")
    )

    def __post_init__(self) -> None:
        for name in ("crop", "crops", "shards_min", "shard_mib", "limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value}: a number above 0 is wanted")
        for name in ("val_fraction", "max_reject_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: a share from 0 to 1 is wanted")
        if self.shard_mib > 4096:
            raise UserError(f"shard_mib={self.shard_mib:g}: a shard is put in one request, 4096 MiB at most")


@dataclass(frozen=True)
class Job:
    """One version of one task to be made."""

    recipe: Recipe
    epoch: int
    identity: str
    shards: tuple[PlannedShard, ...]
    previous: Manifest | None

    @property
    def task(self) -> str:
        """The task's name."""
        return self.recipe.task


def run(options: Options, *, renew: bool, keep: int | None = None) -> None:
    """Make and publish the next version of every task asked for.

    A task whose newest version has the same settings and sources has nothing to do, unless `renew`: then the next
    version has fresh randomness, and is compared with that one before it is published. `keep`: prune to that many.
    """
    console = Console(width=None if Console().is_terminal else 140, highlight=False, markup=False)
    recipes = _recipes(options)
    if options.preview:
        check_image_writable(Path(options.preview))
    store = open_store(options.store)
    sources = list_sources(options.source, options.licence)[: options.limit]
    if not options.plan_only:
        check_writable(store)
    cluster.connect()
    if not options.plan_only:
        cluster.refuse_local_state(store.url)
    with Meter("survey", len(sources), "images") as meter:
        seen = survey(sources, options.crop, options.max_reject_fraction, meter.advance)
    images = fingerprint([(image.digest, image.source.licence, image.source.split) for image in seen.images])

    jobs = []
    for recipe in recipes:
        previous = versions.latest(store, recipe.task)
        same = previous is not None and previous.identity == identity(recipe, images)
        if same and not renew and not options.plan_only:
            console.print(f"{recipe.task}: nothing to do, version {previous.version} is current")
            continue
        epoch = previous.epoch + 1 if previous else 1
        jobs.append(Job(recipe, epoch, identity(recipe, images), tuple(plan(recipe, seen.images, epoch)), previous))
    if options.preview:
        preview.write(Path(options.preview), [plan(recipe, seen.images, 1) for recipe in recipes])
        console.print(f"contact sheet: {options.preview}", soft_wrap=True)
    if options.plan_only:
        console.print(_plan_table(jobs))
        _say_rejects(console, seen, len(sources), "")
    elif jobs:
        _make(console, store, jobs, seen, images)
        _say_rejects(console, seen, len(sources), f"{store.url}/{_rejects_key(jobs[0], seen)}")
    if keep is not None and not options.plan_only:
        for recipe in recipes:
            pruned = versions.prune(store, recipe.task, keep)
            if pruned.versions or pruned.shards:
                console.print(f"{recipe.task}: {pruned}")


def _recipes(options: Options) -> list[Recipe]:
    common = {
        name: getattr(options, name) for name in ("seed", "crop", "crops", "val_fraction", "shard_mib", "shards_min")
    }
    return [recipe_of(task, options.tasks.get(task, {}), **common) for task in expand_tasks(options.task)]


def _make(console: Console, store: Store, jobs: Sequence[Job], seen: Survey, images: str) -> None:
    """Make the shards of all jobs side by side; publish each version when its last shard is there."""
    rows = [{"shard": shard, "store": store} for job in jobs for shard in job.shards]
    waiting = {shard.name: job for job in jobs for shard in job.shards}
    entries: dict[str, dict[str, ShardEntry]] = {job.task: {} for job in jobs}
    manifests, made, kept = [], 0, 0
    with Meter("shards", len(rows), "pairs") as meter:
        for result in cluster.each_row(make_shard, rows, cpus=1, alone=True):
            entry, job = result["entry"], waiting[result["entry"].name]
            entries[job.task][entry.name] = entry
            kept += result["kept"]
            made += 0 if result["kept"] else entry.samples
            meter.advance(units=0 if result["kept"] else entry.samples)
            if len(entries[job.task]) == len(job.shards):
                manifests.append(_publish(store, job, entries[job.task], seen, images))
    console.print(_summary_table(manifests))
    size = sum(shard.bytes for manifest in manifests for shard in manifest.shards)
    console.print(
        f"{made} pairs made in {meter.seconds:.0f} s ({made / meter.seconds:.1f} pairs/s), "
        f"{kept} of {len(rows)} shards were there already; {size / 2**20:.1f} MiB in {store.url}",
        soft_wrap=True,
    )


def _publish(store: Store, job: Job, entries: dict[str, ShardEntry], seen: Survey, images: str) -> Manifest:
    ordered = tuple(entries[shard.name] for shard in job.shards)
    manifest = Manifest(
        task=job.task,
        version=versions.version_name(job.epoch),
        epoch=job.epoch,
        identity=job.identity,
        recipe=asdict(job.recipe),
        sources={
            "fingerprint": images,
            "images": len(seen.images),
            "rejects": dict(sorted(Counter(reject.reason for reject in seen.rejects).items())),
            "rejects_key": _rejects_key(job, seen),
        },
        shards=ordered,
        statistics={split: _statistics([entry for entry in ordered if entry.split == split]) for split in SPLITS},
    )
    if job.previous and job.previous.identity == job.identity:
        _compare(job.previous, manifest)
    store.put(_rejects_key(job, seen), _jsonl(seen.rejects))  # first: a published manifest names no missing file
    versions.publish(store, manifest)
    return manifest


def _statistics(entries: Sequence[ShardEntry]) -> dict[str, float]:
    samples = sum(entry.samples for entry in entries)
    mean = math.fsum(entry.psnr_sum for entry in entries) / max(1, samples)
    variance = math.fsum(entry.psnr_squares for entry in entries) / max(1, samples) - mean**2
    return {
        "shards": len(entries),
        "pairs": samples,
        "bytes": sum(entry.bytes for entry in entries),
        "input_psnr": round(mean, 4),
        "input_psnr_deviation": round(math.sqrt(max(0.0, variance)), 4),
    }


def _compare(live: Manifest, new: Manifest) -> None:
    """Versions that differ in randomness only have as many pairs, and the same input PSNR but for chance."""
    for split in SPLITS:
        old, now = live.statistics[split], new.statistics[split]
        if old["pairs"] != now["pairs"]:
            raise UserError(
                f"{new.task} {new.version} has {now['pairs']} {split} pairs, "
                f"{live.version} {old['pairs']}: not published"
            )
        error = math.hypot(old["input_psnr_deviation"], now["input_psnr_deviation"]) / math.sqrt(max(1, now["pairs"]))
        if abs(now["input_psnr"] - old["input_psnr"]) > 0.5 + 4 * error:
            raise UserError(
                f"{new.task} {new.version} has a mean input PSNR of {now['input_psnr']:.2f} dB in {split}, "
                f"{live.version} {old['input_psnr']:.2f} dB, which is no chance: not published"
            )


def _rejects_key(job: Job, seen: Survey) -> str:
    return versions.rejects_key(job.task, versions.version_name(job.epoch), _jsonl(seen.rejects))


def _jsonl(rejects: Sequence[Reject]) -> bytes:
    lines = [json.dumps({"source": r.name, "reason": r.reason, "detail": r.detail}, sort_keys=True) for r in rejects]
    return "".join(f"{line}\n" for line in lines).encode()


def _plan_table(jobs: Sequence[Job]) -> Table:
    table = Table("task", "crop", title="the plan", title_justify="left")
    for column in ("train images", "train pairs", "train shards", "val images", "val pairs", "val shards", "about MiB"):
        table.add_column(column, justify="right")
    for job in jobs:
        cells = []
        for split in SPLITS:
            shards = [shard for shard in job.shards if shard.split == split]
            images = {part.image.digest for shard in shards for part in shard.parts}
            cells += [len(images), sum(shard.samples for shard in shards), len(shards)]
        size = sum(shard.samples for shard in job.shards) * pair_bytes(job.recipe) / 2**20
        table.add_row(job.task, str(job.recipe.side), *map(str, cells), f"{size:.1f}")
    return table


def _summary_table(manifests: Sequence[Manifest]) -> Table:
    table = Table("task", "version", title_justify="left")
    for column in ("train pairs", "shards", "val pairs", "shards", "MiB", "mean input PSNR, dB"):
        table.add_column(column, justify="right")
    for manifest in manifests:
        train, val = (manifest.statistics[split] for split in SPLITS)
        size = (train["bytes"] + val["bytes"]) / 2**20
        counts = (train["pairs"], train["shards"], val["pairs"], val["shards"])
        table.add_row(manifest.task, manifest.version, *map(str, counts), f"{size:.1f}", f"{train['input_psnr']:.2f}")
    return table


def _say_rejects(console: Console, seen: Survey, total: int, listed: str) -> None:
    if not seen.rejects:
        return
    reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(r.reason for r in seen.rejects).most_common())
    where = f", listed in {listed}" if listed else ""
    console.print(f"{len(seen.rejects)} of {total} source images not used: {reasons}{where}", soft_wrap=True)
