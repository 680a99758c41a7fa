"""From configurations to jobs: the data is pinned, the model chosen, and all that can be wrong is found before a start.

A run's folder (`out`, in any store):

    run.json                  the parent MLflow run
    <task>/init.safetensors   where it starts from, if `init=` is given
    <task>/run.json           the settings, the pinned version, the MLflow run: what "the same command" goes on from
    <task>/checkpoints/…      see checkpoint.py
    <task>/metrics/…          see journal.py
    <task>/weights.safetensors
    <task>/result.json        written last: the task is finished
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kgt import registry
from kgt.config import KGTConfig, preset
from kgt.errors import UserError
from pipelines import versions
from pipelines.degradations import DEGRADATIONS, demosaic, settings_of
from pipelines.storage import Malformed, Missing, Store, open_store, read_json
from pipelines.versions import Manifest, ShardEntry
from training.config import RunConfig
from training.order import choose_streams
from training.plan import INIT, DataPlan, Job, Shard


def prepare(configs: Sequence[RunConfig]) -> list[Job]:
    """The job of every task, checked; nothing is written. Raises UserError."""
    return [_prepare(config) for config in configs]


def commit(jobs: Sequence[Job]) -> None:
    """Write what each run has pinned: into its folder, and as a pin into the store of the shards."""
    for job in jobs:
        store = open_store(job.plan.store)
        versions.pin(store, job.task, job.version, f"run-{job.config.name}")
        if read_record(job.config) is None:
            if job.config.init:
                open_store(job.config.out).put(f"{job.task}/{INIT}", _weights(job.config.init))
            write_record(job.config, {"settings": job.config.identity(), **_pinned(job)})


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
    store = open_store(config.store)
    record = read_record(config)
    if record is not None:
        _check_same(config, record["settings"])
    elif config.init:
        _weights(config.init)
    manifest = _manifest(store, config, record)
    shards = manifest.split("train")
    streams = choose_streams(len(shards), config.workers, record["streams"] if record else config.streams)
    for count in config.worker_counts():
        choose_streams(len(shards), count, streams)
    model = _model(config, manifest)
    settings = settings_of(config.task, manifest.recipe["settings"])
    crop = manifest.recipe["crop"]
    side = (crop - crop % DEGRADATIONS[config.task].align(settings)) // model.scale
    largest = max(phase.patch for phase in config.phases())
    if largest > side:
        raise UserError(
            f"patch={largest}: the shards of {config.task} hold degraded images of {side} pixels a side: "
            f"use patch={side} at most, or larger crops (pipelines/synthesize.py crop=…)"
        )
    if config.task == "demosaic":
        demosaic.check_model_takes(settings)
    if config.redraw and manifest.recipe["paired"]:
        raise UserError(
            f"redraw=true: the degraded images of {manifest.version} of {config.task} were given with the clean ones, "
            "and cannot be drawn anew: give redraw=false"
        )
    plan = DataPlan(
        task=config.task,
        store=store.url,
        shards=tuple(_shard(manifest, entry) for entry in shards),
        validation=tuple(_shard(manifest, entry) for entry in manifest.split("val")),
        streams=streams,
        seed=config.seed,
        phases=config.phases(),
        shuffle=config.shuffle,
        redraw=settings if config.redraw else None,
    )
    return Job(config, model, plan, manifest.version, manifest.digest)


def _shard(manifest: Manifest, entry: ShardEntry) -> Shard:
    return Shard(manifest.key(entry), entry.samples, entry.bytes, entry.sha256)


def _manifest(store: Store, config: RunConfig, record: dict[str, Any] | None) -> Manifest:
    """The version the run began with, else the one asked for, else the newest."""
    if record is None:
        wanted = config.version
        return versions.load(store, config.task, wanted) if wanted else versions.current(store, config.task)
    manifest = versions.load(store, config.task, record["version"])
    if manifest.digest != record["digest"]:
        raise UserError(
            f"{store.url}: version {record['version']} of {config.task} is not the one this run began with: "
            "give another out= to train on the one that is there now"
        )
    return manifest


def _model(config: RunConfig, manifest: Manifest) -> KGTConfig:
    scale = 1
    if config.task == "sr":
        scale = manifest.recipe["settings"]["scale"]
        if not isinstance(scale, int):
            raise UserError(
                f"the shards of sr mix the scales {scale}, and a model has one: make shards of one scale, "
                "as in `python pipelines/synthesize.py task=sr tasks.sr.scale=2 source=…`"
            )
    model = dataclasses.replace(preset(config.model, config.task, scale), similarity=config.similarity)
    return model if config.topk == "random" else dataclasses.replace(model, topk=int(config.topk))


def _weights(address: str) -> Path:
    """The weights file that `init=` names. Raises UserError where there is none."""
    path = registry.fetch(address) if registry.is_address(address) else Path(address).expanduser()
    if not path.is_file():
        raise UserError(f"init={address}: no such weights file")
    return path


def _check_same(config: RunConfig, settings: dict[str, Any]) -> None:
    asked = config.identity()
    changed = [name for name in asked if asked[name] != settings.get(name)]
    if changed:
        was = ", ".join(f"{name}={settings.get(name)}" for name in changed)
        raise UserError(f"{config.out}/{config.task} holds a run with {was}: give the same settings, or another out=")


def _pinned(job: Job) -> dict[str, Any]:
    return {"version": job.version, "digest": job.digest, "streams": job.plan.streams}


def _read_json(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return read_json(store, key)
    except Missing:
        return None
    except Malformed as error:
        raise UserError(f"{store.url}/{key} is damaged: remove it, or give another out=") from error
