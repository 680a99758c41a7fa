"""What shards and models cost, by instance type: measured throughput times the prices in infra/prices.json.

    python infra/costs.py
    python infra/costs.py instance=g6.12xlarge pairs_per_second=95 -- task=sr recipe=full
    python infra/costs.py instance=g6.12xlarge 'pairs_per_second=[60,38,26,15,9,6]' -- task=denoise recipe=full

The first prints both tables. Shards: pairs a second as tests/benchmarks/synthesis.py measured them. Models: core-hours
of whole trainings (tests/benchmarks/curves.py), and recipes by the seconds of single steps (tests/benchmarks/model.py).
What was measured on some cores is taken for as many of an instance's; what was not measured is called so, as all GPUs.

There measure it: a few hundred steps of each phase of the run on the very instance, as in `python training/run.py
task=denoise recipe=full patch=128 batch_size=64 steps=300 …`; the display shows pairs a second. The other lines take
these, one number or one a phase, and after `--` the run's own settings.

Prices are data: edit the file, which says of when and where they are.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's own folder comes first otherwise
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import UserError, as_command
from kgt.tasks import nearest
from pipelines.options import about, divided, parse
from training.config import RunConfig, read_configs
from training.phases import Phase, samples_each

ROOT = Path(__file__).resolve().parents[1]

Json = Mapping[str, Any]


@dataclass
class Options:
    """What the command line can say before `--`."""

    prices: str = field(default="infra/prices.json", metadata=about("prices by instance type"))
    synthesis: str = field(
        default="docs/results/synthesis-cpu.json", metadata=about("report of tests/benchmarks/synthesis.py")
    )
    runs: str = field(default="docs/results/evidence-curves.json", metadata=about("of tests/benchmarks/curves.py"))
    steps: str = field(default="docs/results/model-training-cpu.json", metadata=about("of tests/benchmarks/model.py"))
    instance: str = field(default="", metadata=about("type that trains; empty: both tables"))
    pairs_per_second: Any = field(
        default=0, metadata=about("measured there, all its GPUs together; a list: one a phase")
    )


@as_command()
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    own, settings = divided(argv)
    options = parse(Options, own, __doc__)
    prices = _read(options.prices)
    if options.instance:
        for config in read_configs(settings, __doc__):
            print(training_line(prices, options, config))
        return 0
    print(f"Prices: {prices['place']}, {prices['date']} ({prices['source']}).\n")
    print("\n".join(synthesis_table(prices, _read(options.synthesis))), end="\n\n")
    print("\n".join(training_table(prices, _read(options.runs), _read(options.steps))))
    return 0


def synthesis_table(prices: Json, measured: Json) -> list[str]:
    """Lines of Markdown: hours and price of a million pairs of each task, on demand / spot, by instance type."""
    cores = int(re.search(r"(\d+) cores", measured["device"])[1])
    kinds = [kind for kind in prices["instances"] if kind["for"] == "pipelines"]
    lines = [
        f"A million pairs (256 pixels a side), hours and {prices['currency']} on demand / spot, from pairs a second "
        f"on {cores} cores ({measured['device']}, {measured['date']}):",
        "",
        *_head("task", "pairs/s a core", kinds),
    ]
    for row in measured["rows"]:
        a_core = row["job, pairs/s"] / cores
        cells = [_price(1e6 / (a_core * kind["vcpus"]) / 3600, kind) for kind in kinds]
        lines.append(f"| {row['task']} | {a_core:.0f} | " + " | ".join(cells) + " |")
    return lines


def training_table(prices: Json, runs: Json, steps: Json) -> list[str]:
    """Lines of Markdown: hours and price of training runs, on demand / spot, by instance type.

    runs: core-hours of whole runs, as if alone on the machine. steps: seconds of single steps of one pair.
    """
    kinds = prices["instances"]
    lines = [
        f"A training run, hours and {prices['currency']} on demand / spot, from core-hours of runs ({runs['device']}, "
        f"{runs['date']}) and of single steps ({steps['device']}, {steps['date']}):",
        "",
        *_head("run", "core-hours", kinds),
    ]
    rows = [(f"`{row['run']}`, {row['steps']:,} steps", row["quiet"]) for row in runs["rows"]]
    for name, core_hours in (*rows, *_recipes(steps)):
        cells = [
            _price(core_hours / kind["vcpus"], kind) if core_hours and kind["for"] == "pipelines" else "not measured"
            for kind in kinds
        ]
        shown = f"{core_hours:,.2f}" if core_hours else "not measured"
        lines.append(f"| {name} | {shown} | " + " | ".join(cells) + " |")
    return lines


def _recipes(steps: Json) -> Iterator[tuple[str, float | None]]:
    """The full recipes and their core-hours; None where a step of one of its phases was not measured."""
    known = {
        (row["model"], row["input"]): row["time"]["median"] * steps["threads"]
        for row in steps["rows"]
        if row["pass"] == "training step" and row["mode"] == "eager" and row["time"]
    }
    seen: dict[str, list[str]] = {}
    costs = {}
    for config in read_configs(["task=all", "recipe=full"], ""):
        patches = [phase.patch for phase in config.phases()]
        span = f"{patches[0]}" if len(patches) == 1 else f"{min(patches)} to {max(patches)}"
        name = f"{config.model}, {config.steps:,} steps, patches of {span} pixels"
        seen.setdefault(name, []).append(config.task)
        spent = [(known.get((config.model, f"{phase.patch}×{phase.patch}")), pairs) for phase, pairs in _pairs(config)]
        measured = all(seconds for seconds, _ in spent)
        costs[name] = sum(seconds * pairs for seconds, pairs in spent) / 3600 if measured else None
    for name, tasks in sorted(seen.items(), key=lambda item: len(item[1])):
        told = f"`task={tasks[0]}`" if len(tasks) == 1 else f"each of the other {len(tasks)} tasks"
        yield f"`recipe=full`, {told}: {name}", costs[name]


def training_line(prices: Json, options: Options, config: RunConfig) -> str:
    """Hours and price of one task's run on one instance. Raises UserError where it has no price, and without rates."""
    kinds = {kind["name"]: kind for kind in prices["instances"]}
    if options.instance not in kinds:
        raise UserError(f"no price for '{options.instance}' in {options.prices}: {nearest(options.instance, kinds)}")
    phases = _pairs(config)
    given = options.pairs_per_second
    rates = given if isinstance(given, list) else [given] * len(phases)
    if not all(type(rate) in (int, float) and rate > 0 for rate in rates):
        raise UserError("pairs_per_second is wanted: what the run's display shows there")
    if len(rates) != len(phases):
        patches = ", ".join(str(phase.patch) for phase, _ in phases)
        raise UserError(
            f"pairs_per_second={given}: {config.task} has {len(phases)} phases, of patches of {patches} pixels: "
            "give as many numbers, or one"
        )
    hours = sum(pairs / rate for (_, pairs), rate in zip(phases, rates, strict=True)) / 3600
    return (
        f"{config.task}: {config.steps} steps, {sum(pairs for _, pairs in phases)} pairs on {options.instance}: "
        f"{_price(hours, kinds[options.instance])} {prices['currency']} on demand / spot"
    )


def _pairs(config: RunConfig) -> list[tuple[Phase, int]]:
    """The phases of a run, and the pairs that each takes."""
    phases = config.phases()
    return [*zip(phases, samples_each(phases, config.steps), strict=True)]


def _head(what: str, measured: str, kinds: Sequence[Json]) -> list[str]:
    names = [f"{kind['name']} ({kind['gpus']})" if "gpus" in kind else kind["name"] for kind in kinds]
    return [f"| {what} | {measured} | " + " | ".join(names) + " |", "|---|---:|" + "---:|" * len(kinds)]


def _price(hours: float, kind: Json) -> str:
    spot = f"{hours * kind['spot_hour']:,.2f}" if "spot_hour" in kind else "none"  # the source has none of every type
    return f"{hours:,.2f} h, {hours * kind['hour']:,.2f} / {spot}"


def _read(name: str) -> dict[str, Any]:
    """A JSON file, from the checkout's root. Raises UserError."""
    try:
        return json.loads((ROOT / name).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name}: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
