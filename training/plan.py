"""What workers are sent: one task's training, complete and small. Loads no torch, Ray or MLflow."""

from dataclasses import dataclass
from typing import Any

from kgt.config import KGTConfig
from training.config import RunConfig
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
class DataPlan:
    """Everything that fixes the batches of a run.

    shards, validation: those of the splits `train` and `val`. phases: patch and batch size by step. shuffle: samples
    held back for shuffling, over all streams. redraw: see `augment.training_patch`.
    """

    task: str
    store: str
    shards: tuple[Shard, ...]
    validation: tuple[Shard, ...]
    streams: int
    seed: int
    phases: tuple[Phase, ...]
    shuffle: int
    redraw: Any | None = None

    def phase(self, step: int) -> Phase:
        """The phase of step `step`, counted from 0."""
        return phase_at(self.phases, step)

    def samples(self, step: int) -> int:
        """How many samples the steps before `step` take, over all workers."""
        return samples_before(self.phases, step)


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
