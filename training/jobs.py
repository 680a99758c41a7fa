"""From configurations to jobs: the data is pinned, the model chosen, and all that can be wrong is found before a start.

A run's folder (`out`, in any store):

    run.json                  the parent MLflow run
    lock.json                 who drives the run, see lock.py; {} when nobody does
    <task>/init.safetensors   where it starts from, if `init=` is given
    <task>/run.json           the settings, the pinned versions, the MLflow run: what "the same command" goes on from;
                              and by which code it did (see history.py)
    <task>/checkpoints/…      see checkpoint.py
    <task>/metrics/…          see journal.py
    <task>/weights.safetensors
    <task>/result.json        written last: the task is finished
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kgt import registry
from kgt.config import KGTConfig, preset
from kgt.errors import UserError
from pipelines import versions
from pipelines.degradations import DEGRADATIONS, demosaic, settings_of
from pipelines.manifest import SPLITS, Manifest
from pipelines.storage import Malformed, Missing, Store, check_key, open_store, read_json, read_records
from training import checkpoint, history, origin
from training.config import RunConfig
from training.mixture import listed
from training.order import choose_streams
from training.plan import INIT, DataPlan, Dataset, Job, Shard, Start

logger = logging.getLogger("training")

_DIGEST = re.compile(r"[0-9a-f]{32}")  # of an image, as `survey.Image` has it


def prepare(configs: Sequence[RunConfig]) -> list[Job]:
    """The job of every task, checked; nothing is written. Raises UserError."""
    return [_prepare(config) for config in configs]


def commit(jobs: Sequence[Job]) -> None:
    """Write what each run has pinned: into its folder, and as a pin into the store of the shards."""
    for job in jobs:
        for dataset in job.plan.datasets:
            versions.pin(open_store(dataset.store), job.task, dataset.version, f"run-{job.config.name}")
        record = read_record(job.config)
        if record is None:
            if job.start:
                address = job.start.address if registry.is_address(job.start.address) else job.config.init
                weights = start_weights(dataclasses.replace(job.start, address=address))
                open_store(job.config.out).put(f"{job.task}/{INIT}", weights)
            record = _record(job)
        write_record(job.config, record | {"history": _history(job, record.get("history", []))})


def read_record(config: RunConfig) -> dict[str, Any] | None:
    """What the task's folder says of the run, if it has begun."""
    return _read_json(open_store(config.out), f"{config.task}/run.json")


def write_record(config: RunConfig, record: dict[str, Any]) -> None:
    """Replace the task's `run.json`."""
    open_store(config.out).put(f"{config.task}/run.json", json.dumps(record, sort_keys=True, indent=1).encode())


def read_result(config: RunConfig) -> dict[str, Any] | None:
    """The figures of a finished task."""
    return _read_json(open_store(config.out), f"{config.task}/result.json")


def read_parent(config: RunConfig) -> str | None:
    """The parent MLflow run of the run's folder."""
    found = _read_json(open_store(config.out), "run.json")
    return found and found["mlflow_run"]


def write_parent(config: RunConfig, run: str) -> None:
    """Note the parent MLflow run in the run's folder."""
    open_store(config.out).put("run.json", json.dumps({"name": config.name, "mlflow_run": run}).encode())


def _prepare(config: RunConfig) -> Job:
    record = read_record(config)
    if record is not None:
        _check_same(config, record["settings"])
    found = _manifests(config, record)
    datasets = tuple(
        _dataset(config, store, manifest, source.weight)
        for source, (store, manifest) in zip(config.sources(), found, strict=True)
    )
    _check_different(datasets)
    _warn_of_shared_images(found)
    least = min(datasets, key=lambda dataset: len(dataset.shards))
    shards, name = len(least.shards), f"{least.version} of {config.task} in {least.store}"
    streams = choose_streams(shards, config.workers, record["streams"] if record else config.streams, of=name)
    for count in config.worker_counts():
        choose_streams(shards, count, streams, of=name)
    plan = DataPlan(
        task=config.task,
        datasets=datasets,
        streams=streams,
        seed=config.seed,
        phases=config.phases(),
        shuffle=config.shuffle,
    )
    model = _model(config, [manifest for _, manifest in found])
    return Job(config, model, plan, _start(config, record, model))


def _manifests(config: RunConfig, record: dict[str, Any] | None) -> list[tuple[Store, Manifest]]:
    """Of every dataset, the store and the version the run began with, else the one asked for, else the newest."""
    stores = [open_store(source.store) for source in config.sources()]
    if record is None:
        wanted = [source.version for source in config.sources()]
        return [
            (store, versions.load(store, config.task, name) if name else versions.current(store, config.task))
            for store, name in zip(stores, wanted, strict=True)
        ]
    names, digests = (listed(record[of], of) for of in ("version", "digest"))
    found = [(store, versions.load(store, config.task, name)) for store, name in zip(stores, names, strict=True)]
    for (store, manifest), digest in zip(found, digests, strict=True):
        if manifest.digest != digest:
            raise UserError(
                f"{store.url}: version {manifest.version} of {config.task} is not the one this run began with: "
                "give another out= to train on the one that is there now"
            )
    return found


def _dataset(config: RunConfig, store: Store, manifest: Manifest, weight: int) -> Dataset:
    """The dataset, seen to hold what the run asks for."""
    settings = settings_of(config.task, manifest.recipe["settings"])
    scale, crop = _scale(config.task, manifest), manifest.recipe["crop"]
    side = (crop - crop % DEGRADATIONS[config.task].align(settings)) // scale
    largest = max(phase.patch for phase in config.phases())
    if largest > side:
        raise UserError(
            f"patch={largest}: the shards of {config.task} in {store.url}, {manifest.version}, hold degraded images of "
            f"{side} pixels a side: use patch={side} at most, or larger crops (pipelines/synthesize.py crop=…)"
        )
    if config.task == "demosaic":
        demosaic.check_model_takes(settings)
    if config.redraw and manifest.recipe["paired"]:
        raise UserError(
            f"redraw=true: the degraded images of {manifest.version} of {config.task} in {store.url} were given with "
            "the clean ones, and cannot be drawn anew: give redraw=false"
        )
    train, validation = (
        tuple(Shard(manifest.key(entry), entry.samples, entry.bytes, entry.sha256) for entry in manifest.split(split))
        for split in SPLITS
    )
    redraw = settings if config.redraw else None
    return Dataset(store.url, manifest.version, manifest.digest, train, validation, weight, redraw)


def _check_different(datasets: Sequence[Dataset]) -> None:
    """Raises UserError where one is there twice, be it a copy in another store."""
    first: dict[str, Dataset] = {}
    for dataset in datasets:
        twin = first.setdefault(dataset.digest, dataset)
        if twin is not dataset:
            raise UserError(
                f"{dataset.version} in {dataset.store} is the same dataset as {twin.version} in {twin.store}: "
                "name it once, and give weights= to read it more often"
            )


def _warn_of_shared_images(found: Sequence[tuple[Store, Manifest]]) -> None:
    """Say where one dataset may train on what another holds out: with one val_fraction an image is on one side."""
    for (store, one), (other_store, other) in itertools.combinations(found, 2):
        fractions = [manifest.recipe["val_fraction"] for manifest in (one, other)]
        if fractions[0] == fractions[1]:
            continue
        if shared := _images(store, one) & _images(other_store, other):
            logger.warning(
                "%s in %s and %s in %s share %d images, divided with val_fraction=%g and %g: one may train on what the "
                "other validates on, so that validation may come out too high; make both with the same val_fraction",
                *(one.version, store.url, other.version, other_store.url),
                *(len(shared), *fractions),
            )


def _images(store: Store, manifest: Manifest) -> set[str]:
    """The digests of the source images; none where the list was removed, which training does not need."""
    key = manifest.sources["images_key"]
    try:
        return {_digest(record) for record in read_records(store, key)}
    except Missing:
        return set()
    except Malformed as error:
        raise UserError(f"{store.url}/{key} is damaged ({error}): remove it, training goes on without") from error


def _digest(record: dict[str, Any]) -> str:
    digest = record.get("digest")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise Malformed("a line of it names no image")
    return digest


def _model(config: RunConfig, manifests: Sequence[Manifest]) -> KGTConfig:
    scales = [_scale(config.task, manifest) for manifest in manifests]
    if len(set(scales)) > 1:
        raise UserError(
            f"the datasets are of the scales {', '.join(map(str, scales))}, and a model has one: "
            "mix datasets of one scale"
        )
    model = dataclasses.replace(preset(config.model, config.task, scales[0]), similarity=config.similarity)
    return model if config.topk == "random" else dataclasses.replace(model, topk=int(config.topk))


def _scale(task: str, manifest: Manifest) -> int:
    """Of the pairs: how many times larger the clean image is."""
    if task != "sr":
        return 1
    scale = settings_of(task, manifest.recipe["settings"]).scale.plain()
    if not isinstance(scale, int):
        raise UserError(
            f"the shards of sr mix the scales {scale}, and a model has one: make shards of one scale, "
            "as in `python pipelines/synthesize.py task=sr tasks.sr.scale=2 source=…`"
        )
    return scale


def start_weights(start: Start) -> bytes:
    """The weights file. Raises UserError where there is none, or another by now."""
    data = _weights(start.address)
    if hashlib.sha256(data).hexdigest() != start.sha256:
        raise UserError(f"init={start.address} no longer holds the weights it held (SHA-256 {start.sha256})")
    return data


def _start(config: RunConfig, record: dict[str, Any] | None, model: KGTConfig) -> Start | None:
    """What the run began with, else what `init=` leads to now: a version, for an alias moves, or the copy of a file
    that the run keeps, for a file may change, or be on this machine alone.

    Raises UserError where that is no KGT's, or none of it fits the model.
    """
    if record is not None:
        return Start(**record["start"]) if "start" in record else None
    if not config.init:
        return None
    if registry.is_address(config.init):
        name, version = registry.resolve(config.init)
        given = address = f"models:/{name}/{version}"
    else:
        given, address = config.init, f"{open_store(config.out).url}/{config.task}/{INIT}"
    from kgt.model import KGT  # torch: seconds that only runs with init= take
    from training.warmstart import take_over

    data = _weights(given)
    with tempfile.TemporaryDirectory(prefix="kgt-init-") as folder:
        path = Path(folder) / INIT
        path.write_bytes(data)
        take_over(KGT(model), path, config.init)
    return Start(address, hashlib.sha256(data).hexdigest())


def _weights(address: str) -> bytes:
    """Of `models:/…`, `s3://…`, `file://…` or a path. Raises UserError where there are none."""
    try:
        if address.startswith("s3://"):
            folder, _, name = address.rpartition("/")
            return open_store(folder).get(check_key(name))
        if registry.is_address(address):
            return registry.fetch(address).read_bytes()
        return Path(address.removeprefix("file://")).expanduser().read_bytes()
    except (Missing, FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise UserError(f"init={address}: no such weights file") from error


def _check_same(config: RunConfig, settings: dict[str, Any]) -> None:
    asked = config.identity()
    settings = RunConfig().identity() | settings  # one that came after the run began had its default then
    changed = [name for name in asked | settings if asked.get(name) != settings.get(name)]
    if changed:
        was = ", ".join(f"{name}={settings.get(name)}" for name in changed)
        raise UserError(f"{config.out}/{config.task} holds a run with {was}: give the same settings, or another out=")


def _record(job: Job) -> dict[str, Any]:
    pinned = {name: job.plan.pinned[name] for name in ("version", "digest")}
    start = {"start": dataclasses.asdict(job.start)} if job.start else {}
    return {"settings": job.config.identity(), **pinned, **start, "streams": job.plan.streams}


def _history(job: Job, before: list[history.Stretch]) -> list[history.Stretch]:
    """That of the run as it goes on now. Other code than before is told."""
    store = open_store(job.config.out)
    trained = store.head(f"{job.task}/weights.safetensors") is not None
    step = job.config.steps if trained else max(checkpoint.committed(store, job.task), default=0)
    if step >= job.config.steps:  # nothing is left to train
        return before or [{"step": 0, "git_commit": history.UNKNOWN}]
    now = history.extended(before, step, {"git_commit": origin.git_commit(), **job.config.computation()})
    last, current = (stretch["git_commit"] for stretch in (now[-2:][0], now[-1]))
    if last != current and now != before:
        logger.warning(
            "%s goes on from step %d with code %s, and came there with %s: its lineage names both",
            *(job.task, step, current, last),
        )
    return now


def _read_json(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return read_json(store, key)
    except Missing:
        return None
    except Malformed as error:
        raise UserError(f"{store.url}/{key} is damaged: remove it, or give another out=") from error
