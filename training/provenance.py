"""Where a registered version comes from (code, settings, data, run, figures, environment), and what remakes it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kgt import registry
from kgt.errors import UserError
from pipelines import versions
from pipelines.storage import open_store
from training import tracking
from training.config import RunConfig
from training.mixture import listed, written
from training.plan import Job

TAGS = ("git_commit", "dataset", "dataset_digest", "store", "parent_run", "environment", "weights_sha256")
"""What registration writes down about a version, as its tags."""


@dataclass(frozen=True)
class Pinned:
    """A dataset that a version was trained on, as its tags name it."""

    store: str
    task: str
    version: str
    digest: str


def data_tags(job: Job) -> dict[str, str]:
    """`store`, `dataset` and `dataset_digest` of a version; of several datasets as `mixture.written` has them."""
    datasets = written([f"{job.task}/{dataset.version}" for dataset in job.plan.datasets])
    return {"store": job.plan.pinned["store"], "dataset": datasets, "dataset_digest": job.plan.pinned["digest"]}


def datasets_of(tags: Mapping[str, str]) -> list[Pinned]:
    """What `data_tags` noted down. Raises UserError where the tags were edited and do not fit together."""
    stores, names, digests = (listed(tags[name], name) for name in ("store", "dataset", "dataset_digest"))
    if not len(stores) == len(names) == len(digests):
        raise UserError("its tags store, dataset and dataset_digest name different numbers of datasets")
    parts = [name.partition("/") for name in names]
    return [
        Pinned(store, task, version, digest)
        for store, (task, _, version), digest in zip(stores, parts, digests, strict=True)
    ]


def pin(tags: Mapping[str, str], name: str) -> None:
    """Keep all data of a version from being pruned, under that name. Raises UserError where it is gone already."""
    for dataset in datasets_of(tags):
        versions.pin(open_store(dataset.store), dataset.task, dataset.version, name)


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

        Raises UserError if the chain has gaps.
        """
        if self.gaps:
            raise UserError(f"{self.model} version {self.version} cannot be made again: {self.gaps[0]}")
        known = {field.name for field in dataclasses.fields(RunConfig)}
        asked = {key: value for key, value in self.settings.items() if key in known and value not in ("", "None")}
        version = written([dataset.version for dataset in datasets_of(self.tags)])
        asked |= {"task": self.task, "store": self.tags["store"], "version": version}
        return [f"{key}={value}" for key, value in (asked | {"name": name}).items()]


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
        gaps += _data_gaps(tags)
    return Provenance(name, number, sorted(version.aliases), tags, version.run_id, settings, metrics, gaps)


def _data_gaps(tags: Mapping[str, str]) -> list[str]:
    try:
        datasets = datasets_of(tags)
    except UserError as error:
        return [str(error)]
    return [gap for dataset in datasets for gap in _gaps_of(dataset)]


def _gaps_of(dataset: Pinned) -> list[str]:
    try:
        manifest = versions.load(open_store(dataset.store), dataset.task, dataset.version)
    except UserError as error:
        return [f"its data is not to be had: {error}"]
    if manifest.digest != dataset.digest:
        name = f"{dataset.task}/{dataset.version} in {dataset.store}"
        return [f"{name} is no longer what it was trained on (another digest)"]
    return []
