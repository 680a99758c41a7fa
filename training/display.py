"""Progress of the tasks in training: live rows on a terminal, else a plain line a task now and then. On stderr."""

import math
import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0

PARTS = {"wait": "data", "forward": "forward", "backward": "backward", "update": "optimizer"}
"""What a step's time goes to, and what it is called here."""


class Display:
    """Shows, for every task, step, loss, PSNR, pairs per second, where the time goes, memory and the time left."""

    def __init__(self, steps: dict[str, int]) -> None:
        """steps: how many each task has."""
        self._steps = steps
        self._seconds: dict[str, dict[str, float]] = {}
        self._validated: dict[str, str] = {}
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
        before = self._seconds.get(task, record)
        self._seconds[task] = {name: 0.9 * before[name] + 0.1 * record[name] for name in (*PARTS, "seconds")}
        if "val_psnr" in record:
            self._validated[task] = f", validation {record['val_psnr']:.2f} dB at {record['step']}"
        now, last = time.monotonic(), record["step"] == self._steps[task]
        if self._live:
            self._live.update(self._rows[task], completed=record["step"], state=self._figures(task, record))
        elif last or now - self._said.get(task, -math.inf) >= PLAIN_SECONDS:
            self._said[task] = now
            self._print(f"{task}: step {record['step']}/{self._steps[task]}, {self._figures(task, record)}")

    def _figures(self, task: str, record: dict[str, float]) -> str:
        seconds = self._seconds[task]
        whole = seconds["seconds"]
        left = timedelta(seconds=round((self._steps[task] - record["step"]) * whole))
        split = ", ".join(f"{said} {100 * seconds[name] / whole:.0f} %" for name, said in PARTS.items())
        return (
            f"loss {record['loss']:.4f}, {record['psnr']:.2f} dB{self._validated.get(task, '')}, k {record['k']}, "
            f"{record['batch_size'] / whole:.1f} pairs/s ({split}), {record['memory']:.0f} MiB, {left} left"
        )

    def _print(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")  # at once: two tasks' threads may speak together
        sys.stderr.flush()
