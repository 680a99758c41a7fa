"""What every benchmark shares: timing with medians and spread, one table, one JSON with device and versions.

A benchmark is a script with the arguments of `arguments()`; it times with `measure()` and ends in `report()`.
Timings are printed and stored, never asserted.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kgt.errors import UserError


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median, the 20th and 80th percentile, and how many calls were timed."""

    median: float
    p20: float
    p80: float
    runs: int


def measure(
    call: Callable[[], Any], *, runs: int = 7, warmup: int = 2, finish: Callable[[], None] | None = None
) -> Timing:
    """Time `call`. `finish` (a device's synchronise) runs inside the clock, after each call."""
    seconds = []
    for turn in range(warmup + runs):
        start = time.perf_counter()
        call()
        if finish:
            finish()
        if turn >= warmup:
            seconds.append(time.perf_counter() - start)
    return timing(seconds)


def timing(seconds: Sequence[float]) -> Timing:
    """The median and spread of durations taken elsewhere."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1)
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return Timing(statistics.median(seconds), fifths[0], fifths[-1], len(seconds))


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser that knows `--json FILE`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, the device and the versions here")
    return parser


def start(main: Callable[[], None]) -> None:
    """Run a benchmark's `main`; what the user got wrong ends in one line and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def environment(*packages: str) -> dict[str, Any]:
    """Where and with what the figures were taken."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    found = {"device": f"{cpu}, {len(os.sched_getaffinity(0))} cores", "date": datetime.date.today().isoformat()}
    if "torch" in packages:
        import torch

        if torch.cuda.is_available():
            found["device"] = torch.cuda.get_device_name()
    found["command"] = " ".join([Path(sys.executable).name, *sys.argv])
    found["versions"] = {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}
    return found


def report(title: str, rows: Sequence[dict[str, Any]], *, path: Path | None, packages: Sequence[str]) -> None:
    """Print the rows (a Timing as median [p20-p80] in ms) and write them as JSON where `path` is given."""
    where = environment(*packages)
    table = Table(title=f"{title}\n{where['device']}", title_justify="left")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        table.add_column(column, justify="left" if isinstance(rows[0].get(column), str) else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if path:
        plain = [{c: asdict(v) if isinstance(v, Timing) else v for c, v in row.items()} for row in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"title": title, **where, "rows": plain}, indent=1) + "\n")


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _cell(value: Any) -> str:
    if isinstance(value, Timing):
        return f"{1e3 * value.median:.1f} ms [{1e3 * value.p20:.1f}-{1e3 * value.p80:.1f}]"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)
