"""How trainings got on: validation against steps and core-hours, from the runs' own records.

    python tests/benchmarks/curves.py runs/denoise25/denoise runs/jpeg/jpeg --cores 2 --json FILE --figure FILE.png

A row a run. `core-hours` is wall time (steps, validation, checkpoints) times `--cores`: an upper bound where a machine
is shared. `quiet` counts every step as the fastest fifth of those alike in k, patch and batch: the cost with the
machine to itself. `last hour` is the gain of the averaged weights' PSNR over the last hour of wall time, in dB.
"""

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from kgt.errors import UserError
from tests.benchmarks.harness import arguments, report, start

Record = dict[str, Any]
POINT = ("step", "core-hours", "val_psnr", "val_ssim", "val_raw_psnr", "val_psnr_k64")


def main() -> None:
    """Read, report, draw."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of tasks: <out>/<task>")
    parser.add_argument("--cores", type=int, required=True, help="that a run had, over all its workers")
    parser.add_argument("--figure", type=Path, help="draw the curves into this file")
    given = parser.parse_args()
    curves = {_name(folder): read(folder) for folder in given.runs}
    rows = [{"run": name, **summary(records, given.cores)} for name, records in curves.items()]
    points = {name: curve(records, given.cores) for name, records in curves.items()}
    report("validation while training", rows, path=given.json, packages=("torch",), more={"curves": points})
    if given.figure:
        draw(points, given.figure)


def read(folder: Path) -> list[Record]:
    """The records of a run's steps, ascending; the last one of a finished run with the closing validation.

    Raises UserError where there are none.
    """
    lines = [line for path in sorted(folder.glob("metrics/*.jsonl")) for line in path.read_text().splitlines()]
    records = {record["step"]: record for record in map(json.loads, lines)}  # the last of a step that was replayed
    if not records:
        raise UserError(f"{folder}: no run's folder of a task, which has metrics/*.jsonl")
    found = [records[step] for step in sorted(records)]
    if (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text())
        found[-1] |= {f"val_{name}": result[name] for name in ("psnr", "ssim") if name in result}
    return found


def curve(records: Sequence[Record], cores: int) -> list[dict[str, float]]:
    """A point for each validation."""
    points, seconds = [], 0.0
    for record in records:
        seconds += _seconds(record)
        if "val_psnr" in record:
            known = {**record, "core-hours": seconds * cores / 3600}
            points.append({name: known[name] for name in POINT if name in known})
    return points


def summary(records: Sequence[Record], cores: int) -> dict[str, Any]:
    """What a run took, and what its last hour gained."""
    points = curve(records, cores)
    alike: dict[tuple[float, ...], list[float]] = defaultdict(list)
    for record in records:
        alike[_work(record)].append(record["seconds"])
    quick = {work: _fastest_fifth(seconds) for work, seconds in alike.items()}
    hours = sum(quick[_work(record)] for record in records) * cores / 3600
    end = points[-1] if points else {}
    before = [point for point in points if point["core-hours"] <= end["core-hours"] - cores]
    return {
        "steps": records[-1]["step"],
        "core-hours": sum(map(_seconds, records)) * cores / 3600,
        "quiet": hours,
        "validation, dB": f"{end['val_psnr']:.2f}" if points else None,
        "last hour, dB": f"{end['val_psnr'] - before[-1]['val_psnr']:+.3f}" if before else None,
    }


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Gain over the first validation against steps, a line a run: hours say little where a machine is shared."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        if points:
            gains = [point["val_psnr"] - points[0]["val_psnr"] for point in points]
            axes.plot(
                [point["step"] for point in points],
                gains,
                marker=".",
                label=f"{name} ({points[-1]['val_psnr']:.2f} dB)",
            )
    axes.set(xlabel="step", ylabel="validation PSNR above the first, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _seconds(record: Record) -> float:
    return record["seconds"] + record.get("validation", 0.0) + record.get("checkpoint", 0.0)


def _work(record: Record) -> tuple[float, ...]:
    """What decides how long a step takes."""
    return record["k"], record["patch"], record["batch_size"]


def _fastest_fifth(seconds: Sequence[float]) -> float:
    """The first quintile, between values that were measured: an estimate beyond them may be negative."""
    return statistics.quantiles(seconds, n=5, method="inclusive")[0] if len(seconds) > 1 else seconds[0]


def _name(folder: Path) -> str:
    """The run's, and the task's where they differ."""
    run, task = folder.absolute().parts[-2:]
    return run if run.startswith(task) else f"{run} {task}"


if __name__ == "__main__":
    start(main)
