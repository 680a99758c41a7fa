"""Progress with rate and time left: a live bar on a terminal, else a plain line now and then."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_SECONDS = 10.0


class Meter:
    """Counts up to `total` things called `unit`; `advance` takes how many are done, and further `units` for the rate.

    Use it as a context manager. Everything goes to stderr, so that stdout stays the command's answer.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self.units = 0
        self._skipped = 0
        console = Console(file=sys.stderr)
        self._bar = None
        if console.is_terminal:
            columns = (
                "{task.description}",
                BarColumn(),
                MofNCompleteColumn(),
                "{task.fields[rate]}",
                TimeRemainingColumn(),
            )
            self._bar = Progress(*(TextColumn(c) if isinstance(c, str) else c for c in columns), console=console)
            self._row = self._bar.add_task(title, total=total, rate="")

    def __enter__(self) -> "Meter":
        self._start = self._said = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:
            self._say()

    def advance(self, count: int = 1, units: int | None = None) -> None:
        """`count` more of `total` are done, which were `units` of the unit (default: as many; 0: there was no work)."""
        self.done += count
        self.units += count if units is None else units
        self._skipped += count if units == 0 else 0
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._row, completed=self.done, rate=self._rate())
        elif self.done < self.total and now - self._said >= _PLAIN_SECONDS:  # the last line is said on leaving
            self._said = now
            self._say()

    @property
    def seconds(self) -> float:
        """Since it was entered."""
        return time.monotonic() - self._start

    def _rate(self) -> str:
        return f"{self.units / max(self.seconds, 1e-3):.1f} {self.unit}/s"

    def _say(self) -> None:
        print(
            f"{self.title}: {self.done}/{self.total}, {self._rate()}, {self.seconds:.0f} s{self._left()}",
            file=sys.stderr,
            flush=True,
        )

    def _left(self) -> str:
        worked = self.done - self._skipped
        if not worked or self.done == self.total:
            return ""
        return f", {self.seconds / worked * (self.total - self.done):.0f} s left"
