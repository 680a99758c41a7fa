"""What a run says of itself while it trains: a record a step, sent to the controller's board about once a second."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import ray

from pipelines.storage import Store
from training import journal
from training.board import Picture
from training.plan import Job
from training.step import StepOutcome
from training.system import SystemMonitor

REPORT_SECONDS = 1.0
SAY_SECONDS = 30.0


class Reporter:
    """Rank 0's. `stopping`: the answer was that the run stops."""

    def __init__(self, job: Job, board: Any) -> None:
        """board: see `board.Board`."""
        self.stopping = False
        self._job = job
        self._board = board
        self._system = SystemMonitor()
        self._records: list[dict[str, float]] = []
        self._unsent = 0
        self._sent = self._said = self._watched = time.monotonic()
        self._noted: dict[str, float] = {}

    def add(self, step: int, outcome: StepOutcome, figures: Mapping[str, float]) -> None:
        """One step's record: PSNR of the training batch in dB, memory in MiB, what was noted since the last one."""
        psnr = -10 * math.log10(outcome.mse) if 0 < outcome.mse < math.inf else math.nan
        record = {"step": step, "psnr": psnr, **dataclasses.asdict(outcome), **figures, **self._noted}
        self._noted = {}
        self._records.append({**record, "memory": self._system.memory()})
        self._unsent += 1
        self._said = now = time.monotonic()
        if now - self._watched >= REPORT_SECONDS:
            self._records[-1] |= self._system.utilization()
            self._watched = now
        if now - self._sent >= REPORT_SECONDS:
            self.flush()

    def note(self, **figures: float) -> None:
        """Figures that are known between two steps; they go with the next one's record."""
        self._noted |= figures

    def stop_asked(self, doing: str) -> bool:
        """Whether the run is to stop. doing: said now and then, where it is something else than steps."""
        now = time.monotonic()
        if now - self._sent >= REPORT_SECONDS:
            self.flush()
        if now - self._said >= SAY_SECONDS:
            self._said = now
            self.say(doing)
        return self.stopping

    def keep(self, store: Store) -> None:
        """Send what there is; write all since the last checkpoint into the run's folder."""
        self.flush()
        journal.write(store, self._job.task, self._records)
        self._records = []

    def flush(self) -> None:
        """Send what there is."""
        fresh = self._records[len(self._records) - self._unsent :]
        self.stopping |= ray.get(self._board.push.remote(self._job.task, fresh))
        self._unsent, self._sent = 0, time.monotonic()

    def say(self, what: str | Picture) -> None:
        """See Board."""
        ray.get(self._board.say.remote(self._job.task, what))
