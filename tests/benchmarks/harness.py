"""What every benchmark shares: timing with medians and spread, one table, one JSON with device and versions.

A benchmark is a script with the arguments of `arguments()`; it times with `measure()` and ends in `report()`.
Timings are printed and stored, never asserted.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from kgt.errors import UserError

if TYPE_CHECKING:
    import torch


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


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    *,
    runs: int,
    patience: float = math.inf,
    finish: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time several calls in turns, so that a drift of the machine hits all alike; the first turn is a warm-up.

    A call that takes longer than `patience` seconds after the warm-up, in which it may be compiled, is timed once.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 + runs):
        for name, call in calls.items():
            if turn > 1 and seconds[name][1] > patience:
                continue
            start = time.perf_counter()
            call()
            if finish:
                finish()
            seconds[name].append(time.perf_counter() - start)
    return {name: timing(taken[1:]) for name, taken in seconds.items()}


def timing(seconds: Sequence[float]) -> Timing:
    """The median and spread of durations taken elsewhere."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1)
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return Timing(statistics.median(seconds), fifths[0], fifths[-1], len(seconds))


def finish_of(device: Any) -> Callable[[], None] | None:
    """What waits for a torch device to have done its work; None where calls do."""
    import torch

    return torch.cuda.synchronize if torch.device(device).type == "cuda" else None


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser that knows `--json FILE`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, the device and the versions here")
    return parser


def device_arguments(parser: argparse.ArgumentParser, *dtypes: str, of: str) -> None:
    """Add what `device_of` takes. dtypes: those there are `of` something, the default first."""
    import torch

    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=dtypes, default=dtypes[0], help=of)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and of the kernels")


def device_of(given: argparse.Namespace) -> tuple["torch.device", "torch.dtype"]:
    """What `device_arguments` were given, with so many threads set. Raises UserError where there is no such device."""
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device here; take --device cpu")
    torch.set_num_threads(given.threads)
    return torch.device(given.device), getattr(torch, given.dtype)


def start(main: Callable[[], None]) -> None:
    """Run a benchmark's `main`; what the user got wrong ends in one line and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def environment(*packages: str, device: str = "cpu") -> dict[str, Any]:
    """Where and with what the figures were taken. device: PyTorch's, on which."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    found = {"device": f"{cpu}, {len(os.sched_getaffinity(0))} cores", "date": datetime.date.today().isoformat()}
    if device == "cuda":
        import torch

        found["device"] = torch.cuda.get_device_name()
    found["command"] = " ".join([Path(sys.executable).name, *sys.argv])
    found["versions"] = {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}
    return found


def report(
    title: str,
    rows: Sequence[dict[str, Any]],
    *,
    path: Path | None,
    packages: Sequence[str],
    more: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> None:
    """Print the rows (a Timing as median [p20-p80] in ms) and store them."""
    print_table(f"{title}\n{environment(*packages, device=device)['device']}", rows)
    store(title, rows, path=path, packages=packages, more=more, device=device)


def store(
    title: str,
    rows: Sequence[dict[str, Any]],
    *,
    path: Path | None,
    packages: Sequence[str],
    more: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> None:
    """Write the rows as JSON where `path` is given. A long benchmark does so whenever it has more of them.

    more: what else the JSON holds, by name; tables among it are rows like those. device: see `environment`.
    """
    if path:
        where = environment(*packages, device=device)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {"title": title, **where, **(more or {}), "rows": rows}
        path.write_text(json.dumps(found, indent=1, default=asdict) + "\n")


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """On the terminal, or 160 columns wide where there is none."""
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        table.add_column(column, justify="left" if any(isinstance(row.get(column), str) for row in rows) else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _cell(value: Any) -> str:
    if isinstance(value, Timing):
        return f"{1e3 * value.median:.1f} ms [{1e3 * value.p20:.1f}-{1e3 * value.p80:.1f}]"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)
