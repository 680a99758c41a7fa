"""Where a registered version comes from (code, settings, data, run, figures, environment), and what remakes it."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgt import registry
from kgt.errors import UserError
from pipelines import versions
from pipelines.storage import Unavailable, open_store
from training import history, jobs, origin, tracking
from training.config import RunConfig
from training.deepspeed_config import deepspeed_config
from training.mixture import listed, written
from training.plan import Job, Start

TAGS = ("git_commit", "dataset", "dataset_digest", "store", "parent_run", "environment", "weights_sha256")
"""What registration writes down about a version, as its tags."""

logger = logging.getLogger("training")


@dataclass(frozen=True)
class Pinned:
    """A dataset that a version was trained on, as its tags name it."""

    store: str
    task: str
    version: str
    digest: str


def run_settings(job: Job) -> dict[str, Any]:
    """What the task's run logs before it starts: all that `Provenance.command` needs, and what was derived from it."""
    settings = job.config.identity() | job.config.computation() | {"streams": job.plan.streams}
    settings |= {f"dataset_{name}": text for name, text in job.plan.pinned.items()} | _start_tags(job)
    derived = {"deepspeed": deepspeed_config(job.config), "model_config": job.model.to_dict()}
    return settings | {name: json.dumps(value) for name, value in derived.items()}


def run_tags(job: Job, stretches: Sequence[history.Stretch]) -> dict[str, str]:
    """What the model will be tagged with, as far as it is known before training.

    `git_commit`, all of them as `mixture.written` has them; `history`, where anything changed on the way; `init` and
    `init_sha256`, where it started from other weights.
    """
    tags = {"git_commit": written(history.commits(stretches)), "history": history.told(stretches)}
    return {name: value for name, value in tags.items() if value} | _start_tags(job)


def _start_tags(job: Job) -> dict[str, str]:
    return {"init": job.start.address, "init_sha256": job.start.sha256} if job.start else {}


def data_tags(job: Job) -> dict[str, str]:
    """`store`, `dataset` and `dataset_digest` of a version; of several datasets as `mixture.written` has them."""
    datasets = written([f"{job.task}/{dataset.version}" for dataset in job.plan.datasets])
    return {"store": job.plan.pinned["store"], "dataset": datasets, "dataset_digest": job.plan.pinned["digest"]}


def datasets_of(tags: Mapping[str, str]) -> list[Pinned]:
    """What `data_tags` noted down. Raises UserError where the tags were edited and do not fit together, or are gone."""
    wanted = ("store", "dataset", "dataset_digest")
    for name in wanted:
        if not tags.get(name):
            raise UserError(f"it has no tag {name}")
    stores, names, digests = (listed(tags[name], name) for name in wanted)
    if not len(stores) == len(names) == len(digests):
        raise UserError("its tags store, dataset and dataset_digest name different numbers of datasets")
    parts = [name.partition("/") for name in names]
    return [
        Pinned(store, task, version, digest)
        for store, (task, _, version), digest in zip(stores, parts, digests, strict=True)
    ]


def pin(tags: Mapping[str, str], name: str) -> None:
    """Keep all data of a version from being pruned, under that name. Raises UserError where it is gone already.

    That of the versions it was warm-started from is kept as far as it is there.
    """
    _pin_own(tags, name)
    for address, ancestor in _ancestors(tags):
        try:
            _pin_own(ancestor, name)
        except UserError as error:
            logger.warning("the data of %s, which %s comes from, is not kept: %s", address, name, error)


def _pin_own(tags: Mapping[str, str], name: str) -> None:
    for dataset in datasets_of(tags):
        versions.pin(open_store(dataset.store), dataset.task, dataset.version, name)


def _ancestors(tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Address and tags of the version it started from, of the one which that started from, and so on."""
    while registry.is_address(address := tags.get("init", "")):
        try:
            tags = tracking.get_version(*registry.resolve(address)).tags
        except UserError as error:
            logger.warning("%s, where it started from, is not to be had: %s", address, error)
            return
        yield address, tags


@dataclass(frozen=True)
class Provenance:
    """The chain of a version. `tags`, `settings`, `metrics`: as they were registered and logged, by name.

    gaps: what is missing of the chain, a line each; empty where it is whole.
    """

    model: str
    version: str
    aliases: list[str]
    tags: dict[str, str]
    run: str
    settings: dict[str, str]
    metrics: dict[str, float]
    gaps: list[str]

    @property
    def task(self) -> str:
        """The task that the version is for."""
        return datasets_of(self.tags)[0].task

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def command(self, name: str) -> list[str]:
        """The settings of `training/run.py` for a run of that name which makes the version once more.

        Code that no commit names does not hinder it, as it may be what is here. Raises UserError for all other gaps.
        """
        hindrances = [gap for gap in self.gaps if gap not in _code_gaps(self.tags)]
        if hindrances:
            raise UserError(f"{self.model} version {self.version} cannot be made again: {hindrances[0]}")
        known = {field.name for field in dataclasses.fields(RunConfig)}
        asked = {key: value for key, value in self.settings.items() if key in known and value not in ("", "None")}
        version = written([dataset.version for dataset in datasets_of(self.tags)])
        asked |= {"task": self.task, "store": self.tags["store"], "version": version}
        return [f"{key}={value}" for key, value in (asked | {"name": name}).items()]


def ancestors(chain: Provenance) -> Iterator[Provenance]:
    """The chain of the version it was warm-started from, of the one which that was, and so on, as far as they lead."""
    for address, _ in _ancestors(chain.tags):
        yield trace(address)


def trace(address: str) -> Provenance:
    """The chain of `models:/<name>@<alias>` or `models:/<name>/<version>`. Raises UserError if it leads nowhere."""
    name, number = registry.resolve(address)
    version = tracking.get_version(name, number)
    tags = dict(version.tags)
    found = tracking.find_run(version.run_id) if version.run_id else None
    settings, metrics, _ = found or ({}, {}, {})
    gaps = [f"it has no tag {tag}" for tag in TAGS if not tags.get(tag)]
    if found is None:
        gaps.append(f"its run {version.run_id or ''} is not in MLflow")
    elif "parent_run" in tags and tracking.find_run(tags["parent_run"]) is None:
        gaps.append(f"its parent run {tags['parent_run']} is not in MLflow")
    if not gaps:
        gaps += _data_gaps(tags) + _start_gaps(tags, settings.get("init", "")) + _code_gaps(tags)
    return Provenance(name, number, sorted(version.aliases), tags, version.run_id, settings, metrics, gaps)


def _data_gaps(tags: Mapping[str, str]) -> list[str]:
    try:
        datasets = datasets_of(tags)
    except UserError as error:
        return [str(error)]
    return [gap for dataset in datasets for gap in _gaps_of(dataset)]


def _code_gaps(tags: Mapping[str, str]) -> list[str]:
    """What of the code no commit names."""
    try:
        commits = listed(tags.get("git_commit", ""), "git_commit")
    except UserError as error:
        return [str(error)]
    gaps = [_of_code(commit) for commit in commits if not origin.is_commit(commit)]
    return [*gaps, "the code of its first steps is not recorded"] if history.UNKNOWN in commits else gaps


def _of_code(commit: str) -> str:
    if commit.startswith(origin.SOURCES):
        return f"no commit names its code ({commit}): train from a checkout, by infra/submit.py, or set KGT_GIT_COMMIT"
    return f"its code was changed after commit {commit.removesuffix(origin.DIRTY)}, and what it was is not recorded"


def _start_gaps(tags: Mapping[str, str], asked: str) -> list[str]:
    """asked: the setting `init`."""
    if not tags.get("init_sha256"):
        return [f"which weights init={asked} led to is not recorded"] if asked else []
    try:
        jobs.start_weights(Start(tags.get("init", ""), tags["init_sha256"]))
    except Unavailable:
        raise
    except UserError as error:
        return [f"what it started from is not to be had: {error}"]
    return []


def _gaps_of(dataset: Pinned) -> list[str]:
    try:
        manifest = versions.load(open_store(dataset.store), dataset.task, dataset.version)
    except Unavailable:
        raise
    except UserError as error:
        return [f"its data is not to be had: {error}"]
    if manifest.digest != dataset.digest:
        name = f"{dataset.task}/{dataset.version} in {dataset.store}"
        return [f"{name} is no longer what it was trained on (another digest)"]
    return []
