"""Progress of the tasks in training: live rows on a terminal, else a plain line a task now and then. On stderr."""

import math
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0


class Display:
    """Shows, for every task, step, loss, PSNR of the training patches, pairs per second and the time left."""

    def __init__(self, steps: dict[str, int]) -> None:
        """steps: how many each task has."""
        self._steps = steps
        self._seconds: dict[str, float] = {}
        self._said: dict[str, float] = {}
        console = Console(file=sys.stderr)
        self._live = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
            self._live = Progress(*columns, TextColumn("{task.fields[state]}", markup=False), console=console)
            self._rows = {task: self._live.add_task(task, total=steps[task], state="waiting") for task in steps}

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, task: str, what: str) -> None:
        """A change of state, such as `starting` or `validating`."""
        if self._live:
            self._live.update(self._rows[task], state=what)
        else:
            self._print(f"{task}: {what}")

    def update(self, task: str, record: dict[str, float]) -> None:
        """One step's record, as the worker reports it."""
        before = self._seconds.get(task, record["seconds"])
        self._seconds[task] = 0.9 * before + 0.1 * record["seconds"]
        now, last = time.monotonic(), record["step"] == self._steps[task]
        if self._live:
            self._live.update(self._rows[task], completed=record["step"], state=self._figures(task, record))
        elif last or now - self._said.get(task, -math.inf) >= PLAIN_SECONDS:
            self._said[task] = now
            self._print(f"{task}: step {record['step']}/{self._steps[task]}, {self._figures(task, record)}")

    def _figures(self, task: str, record: dict[str, float]) -> str:
        rate = record["batch_size"] / self._seconds[task]
        left = (self._steps[task] - record["step"]) * self._seconds[task]
        clock = f"{left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f}"
        return f"loss {record['loss']:.4f}, {record['psnr']:.2f} dB, k {record['k']}, {rate:.1f} pairs/s, {clock} left"

    def _print(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")  # at once: two tasks' threads may speak together
        sys.stderr.flush()
