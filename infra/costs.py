"""What shards and models cost, by instance type: measured throughput times the prices in infra/prices.json.

    python infra/costs.py
    python infra/costs.py instance=g6.12xlarge pairs_per_second=95 steps=300000 batch_size=32

Pairs a second are those that tests/benchmarks/synthesis.py measured on a core (docs/results/synthesis-cpu.json), taken
times an instance's cores. A training run's pairs a second are to be given: the run shows them while it trains; measure
a few hundred steps on the very instance. Prices are data: edit the file.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's own folder comes first otherwise
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import UserError, as_command
from kgt.tasks import nearest
from pipelines.options import about, parse

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Options:
    """What the command line can say."""

    prices: str = field(default="infra/prices.json", metadata=about("prices by instance type"))
    synthesis: str = field(
        default="docs/results/synthesis-cpu.json", metadata=about("report of tests/benchmarks/synthesis.py")
    )
    instance: str = field(default="", metadata=about("type that trains; empty: only shards"))
    pairs_per_second: float = field(default=0.0, metadata=about("measured there, all its GPUs together"))
    steps: int = field(default=300_000, metadata=about("of the run"))
    batch_size: int = field(default=32, metadata=about("of all workers together"))


@as_command()
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    options = parse(Options, argv, __doc__)
    prices, measured = _read(options.prices), _read(options.synthesis)
    if options.instance:
        print(training_line(prices, options))
    else:
        print(f"Prices: {prices['place']}, {prices['date']} ({prices['source']}).\n")
        print("\n".join(synthesis_table(prices, measured)))
    return 0


def synthesis_table(prices: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: hours and price of a million pairs of each task, on demand / spot, by instance type."""
    cores = int(re.search(r"(\d+) cores", measured["device"])[1])
    kinds = [kind for kind in prices["instances"] if kind["for"] == "pipelines"]
    lines = [
        f"A million pairs (256 pixels a side), hours and {prices['currency']} on demand / spot, from pairs a second "
        f"on {cores} cores ({measured['device']}, {measured['date']}):",
        "",
        "| task | pairs/s a core |" + "".join(f" {kind['name']} |" for kind in kinds),
        "|---|---:|" + "---:|" * len(kinds),
    ]
    for row in measured["rows"]:
        a_core = row["job, pairs/s"] / cores
        cells = [_price(1e6 / (a_core * kind["vcpus"]) / 3600, kind) for kind in kinds]
        lines.append(f"| {row['task']} | {a_core:.0f} | " + " | ".join(cells) + " |")
    return lines


def training_line(prices: Mapping[str, Any], options: Options) -> str:
    """Hours and price of a run on one instance. Raises UserError for one that has no price, and without a rate."""
    kinds = {kind["name"]: kind for kind in prices["instances"]}
    if options.instance not in kinds:
        raise UserError(f"no price for '{options.instance}' in {options.prices}: {nearest(options.instance, kinds)}")
    if not options.pairs_per_second > 0:
        raise UserError("pairs_per_second is wanted: what the run's display shows there")
    hours = options.steps * options.batch_size / options.pairs_per_second / 3600
    return (
        f"{options.steps} steps of {options.batch_size} on {options.instance}: "
        f"{_price(hours, kinds[options.instance])} {prices['currency']} on demand / spot"
    )


def _price(hours: float, kind: Mapping[str, Any]) -> str:
    return f"{hours:.2f} h, {hours * kind['hour']:.2f} / {hours * kind['spot_hour']:.2f}"


def _read(name: str) -> dict[str, Any]:
    """A JSON file, from the checkout's root. Raises UserError."""
    try:
        return json.loads((ROOT / name).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name}: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
