"""What workers are sent: one task's training, complete and small. Loads no torch, Ray or MLflow."""

from dataclasses import dataclass
from typing import Any

from kgt.config import KGTConfig
from training.config import RunConfig
from training.mixture import written
from training.phases import Phase, phase_at, samples_before

INIT = "init.safetensors"
"""In the task's folder: the weights that `init=` named when the run began."""


@dataclass(frozen=True)
class Shard:
    """One shard of the pinned version: its key in the store, how many samples and bytes it has, their SHA-256."""

    key: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """One pinned version: the store that holds it, its name and its manifest's digest.

    shards, validation: those of the splits `train` and `val`. weight: how often it is read, beside other datasets.
    redraw: see `augment.training_patch`.
    """

    store: str
    version: str
    digest: str
    shards: tuple[Shard, ...]
    validation: tuple[Shard, ...]
    weight: int = 1
    redraw: Any | None = None


@dataclass(frozen=True)
class DataPlan:
    """Everything that fixes the batches of a run.

    phases: patch and batch size by step. shuffle: samples held back for shuffling, over all streams and datasets.
    """

    task: str
    datasets: tuple[Dataset, ...]
    streams: int
    seed: int
    phases: tuple[Phase, ...]
    shuffle: int

    @property
    def weights(self) -> tuple[int, ...]:
        """Of the datasets."""
        return tuple(dataset.weight for dataset in self.datasets)

    @property
    def validation(self) -> tuple[Shard, ...]:
        """Of all datasets."""
        return tuple(shard for dataset in self.datasets for shard in dataset.validation)

    @property
    def pinned(self) -> dict[str, str]:
        """`store`, `version` and `digest` of the datasets, each as `mixture.written` has them."""
        names = ("store", "version", "digest")
        return {name: written([getattr(dataset, name) for dataset in self.datasets]) for name in names}

    def phase(self, step: int) -> Phase:
        """The phase of step `step`, counted from 0."""
        return phase_at(self.phases, step)

    def samples(self, step: int) -> int:
        """How many samples the steps before `step` take, over all workers."""
        return samples_before(self.phases, step)


@dataclass(frozen=True)
class Start:
    """The weights that `init=` led to when the run began: the run's copy of a file, or `models:/<name>/<version>`, and
    their SHA-256."""

    address: str
    sha256: str


@dataclass(frozen=True)
class Job:
    """One task's training. start: None where it starts at random."""

    config: RunConfig
    model: KGTConfig
    plan: DataPlan
    start: Start | None = None

    @property
    def task(self) -> str:
        """The task's name, which is also its folder in the run's store."""
        return self.config.task
