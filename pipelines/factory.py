"""The factory: from options to published versions. Survey, plan, shards, manifest; what the entry scripts run."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import ray
from rich.console import Console

from kgt.errors import UserError
from pipelines import cluster, preview, versions
from pipelines.acceptance import accept
from pipelines.estimate import estimate
from pipelines.job_options import Options, RenewalOptions
from pipelines.jobs import Job, Jobs, Sources
from pipelines.json_report import write_report
from pipelines.manifest import SPLITS, Manifest, ShardEntry, statistics_of
from pipelines.plan import plan
from pipelines.progress import Meter
from pipelines.storage import Store, check_writable, open_store
from pipelines.summary import Summary, plan_record, plan_table, say_rejects
from pipelines.survey import survey
from pipelines.synthesis import make_shard
from pipelines.withdrawal import read_withdrawal


def run(options: Options) -> None:
    """Make and publish the next version of every task asked for.

    A task whose newest version has the same settings and sources has nothing to do, but that shards of it which were
    lost are made again. With RenewalOptions it gets a version with fresh randomness even so (unless `only_if_changed`),
    which is compared with the live one before it is published; then old versions are pruned.
    """
    console = Console(width=None if Console().is_terminal else 140, highlight=False, markup=False)
    recipes = options.recipes()
    options.check_files()
    store = open_store(options.store)
    sources = options.list_sources()
    withdrawal = read_withdrawal(options.exclude)
    if not options.plan_only:
        check_writable(store)
    cluster.connect()
    if not options.plan_only:
        cluster.refuse_local_state(store.url)
    with Meter("survey", len(sources), "images") as meter:
        seen = survey(
            sources,
            options.crop,
            options.max_reject_fraction,
            meter.advance,
            max_flatness=options.max_flatness,
            min_sharpness=options.min_sharpness,
            min_quality=options.min_quality,
            withdrawal=withdrawal,
            guard=options.load_guard(),
            check=options.check_of_sources(),
        )
        survey_seconds = meter.seconds
    for pattern in seen.unmatched:
        console.print(f"exclude={pattern}: no image in the source matches it (copies cannot be told)", soft_wrap=True)
    if options.preview or options.plan_only:
        plans = [(recipe, plan(recipe, seen.images, 1)) for recipe in recipes]
    if options.preview:
        synthetic = options.recipes(paired=False) if options.degraded else ()
        shown = plans + [(recipe, plan(recipe, seen.images, 1)) for recipe in synthetic]
        rows = [(recipe.task, preview.planned_pairs(shards)) for recipe, shards in shown]
        preview.write_sheet(Path(options.preview), rows)
        console.print(f"contact sheet: {options.preview}", soft_wrap=True)
    if options.plan_only:
        costs = [(recipe, shards, estimate(shards)) for recipe, shards in plans]
        cores = ray.cluster_resources().get("CPU", 1)
        console.print(plan_table(costs, cores))
        say_rejects(console, seen, len(sources))
        if options.report:
            write_report(Path(options.report), plan_record(costs, cores, seen))
        return
    found = Sources.of(seen)
    jobs = Jobs(store, recipes, found, options)
    for task, version in jobs.up_to_date.items():
        console.print(f"{task}: nothing to do, version {version} is current")
    for note in jobs.notes:
        console.print(note, soft_wrap=True)
    summary = Summary(store.url, jobs.up_to_date, survey_seconds, rejects=found.reasons)
    refused = jobs.refused + (_make(store, jobs.jobs, found, summary, options) if jobs.jobs else [])
    jobs.end()
    if summary.manifests:
        summary.rejects_listed = f"{store.url}/{summary.manifests[0].sources['rejects_key']}"
        summary.print(console)
        say_rejects(console, seen, len(sources), summary.rejects_listed)
    if options.report:
        write_report(Path(options.report), summary.record())
    if refused:
        raise UserError("; ".join(refused))
    if isinstance(options, RenewalOptions):
        troubles = []
        for recipe in recipes:
            try:
                pruned = versions.prune(store, recipe.task, options.keep)
            except UserError as error:
                troubles.append(str(error))
                continue
            if pruned.versions or pruned.shards:
                console.print(f"{recipe.task}: {pruned}")
        if troubles:
            raise UserError("; ".join(troubles))


def _make(store: Store, jobs: Sequence[Job], found: Sources, summary: Summary, options: Options) -> list[str]:
    """Make the shards of all jobs side by side; publish each version when its last shard is there.

    What was refused publication is returned, a line each: the other tasks go on.
    """
    rows = [{"shard": shard, "store": store} for job in jobs for shard in job.shards]
    waiting = {shard.name: job for job in jobs for shard in job.shards}
    entries: dict[str, dict[str, ShardEntry]] = {job.task: {} for job in jobs}
    refused = []
    with Meter("shards", len(rows), "pairs") as meter:
        for result in cluster.each_row(make_shard, rows, cpus=1, alone=True):
            entry, job = result["entry"], waiting[result["entry"].name]
            entries[job.task][entry.name] = entry
            summary.shards_kept += result["kept"]
            summary.shards_made += not result["kept"]
            summary.worker_peak_mib = max(summary.worker_peak_mib, result["peak_mib"])
            pairs = 0 if result["kept"] else entry.samples
            summary.pairs += pairs
            meter.advance(units=pairs)
            if len(entries[job.task]) == len(job.shards):
                try:
                    summary.manifests.append(_publish(store, job, entries[job.task], found, options))
                except UserError as error:
                    refused.append(str(error))
        summary.seconds = meter.seconds
    asked = [job.task for job in jobs]  # they end in any order
    summary.manifests.sort(key=lambda manifest: asked.index(manifest.task))
    return refused


def _publish(store: Store, job: Job, entries: dict[str, ShardEntry], found: Sources, options: Options) -> Manifest:
    ordered = tuple(entries[shard.name] for shard in job.shards)
    if job.mends:
        if ordered != job.mends.shards:
            raise UserError(
                f"{store.url}: shards of {job.mends.version} of {job.task} were lost and cannot be made again to the "
                "same bytes here: make the next version with regenerate.py"
            )
        versions.publish(store, job.mends)  # it may not have become current
        return job.mends
    version = versions.version_name(job.epoch)
    images_key, rejects_key = found.keys(job.task, version)
    manifest = Manifest(
        task=job.task,
        version=version,
        epoch=job.epoch,
        identity=job.identity,
        recipe=asdict(job.recipe),
        sources={
            "fingerprint": found.fingerprint,
            "images": len(found.seen.images),
            "images_key": images_key,
            "rejects": found.reasons,
            "rejects_key": rejects_key,
        },
        shards=ordered,
        statistics={split: statistics_of([entry for entry in ordered if entry.split == split]) for split in SPLITS},
    )
    if job.live and isinstance(options, RenewalOptions):
        accept(store, job.live, manifest)
    store.put(images_key, found.images)  # first: a published manifest names no missing file
    store.put(rejects_key, found.rejects)
    versions.publish(store, manifest)
    return manifest
