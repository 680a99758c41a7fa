"""What workers are sent: one task's training, complete and small. Loads no torch, Ray or MLflow."""

from dataclasses import dataclass
from typing import Any

from kgt.config import KGTConfig
from training.config import RunConfig


@dataclass(frozen=True)
class Shard:
    """One shard of the pinned version: its key in the store, how many samples and bytes it has, their SHA-256."""

    key: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DataPlan:
    """Everything that fixes the batches of a run.

    shards, validation: those of the splits `train` and `val`. shuffle: samples held back for shuffling, over all
    streams. redraw: see `augment.training_patch`.
    """

    task: str
    store: str
    shards: tuple[Shard, ...]
    validation: tuple[Shard, ...]
    streams: int
    seed: int
    batch_size: int
    patch: int
    shuffle: int
    redraw: Any | None = None


@dataclass(frozen=True)
class Job:
    """One task's training. `version` and `digest` are the pinned manifest's."""

    config: RunConfig
    model: KGTConfig
    plan: DataPlan
    version: str
    digest: str

    @property
    def task(self) -> str:
        """The task's name, which is also its folder in the run's store."""
        return self.config.task
