"""Where a registered model comes from: the whole chain, and the command that makes it once more.

    python training/lineage.py models:/kgt-jpeg/3
    python training/lineage.py models:/kgt-jpeg@champion report=chain.json
    python training/lineage.py models:/kgt-jpeg/3 recreate=true

recreate=true gives that command and compares the weights: the same code, on as many workers and the same kind of
machine, makes them again bit for bit. It registers a version, as every run does. Exit code: 0; 1 where the chain has
gaps or the weights differ; 2 for a mistake in the command.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import as_command
from pipelines.json_report import check_report, write_report
from pipelines.options import about, parse
from training import jobs, origin, provenance, run, tables, tracking
from training.config import read_configs


@dataclass
class Options:
    """What `lineage.py` takes after the model's address."""

    recreate: bool = field(default=False, metadata=about("train it once more, and compare the weights"))
    name: str = field(default="", metadata=about("the new run's name; empty: <model>-v<version>-again"))
    report: str = field(default="", metadata=about("write the chain to this JSON file"))


@as_command()
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    address, *rest = argv or ["--help"]
    options = parse(Options, ["--help"] if address in ("-h", "--help") else rest, __doc__)
    if options.report:
        check_report(Path(options.report))
    found = provenance.trace(address)
    ancestors = [*provenance.ancestors(found)]
    for chain in (found, *ancestors):
        tables.print_chain(chain)
    if options.report:
        record = found.record() | {"ancestors": [chain.record() for chain in ancestors]}
        write_report(Path(options.report), record)
    if found.gaps and not options.recreate:
        return 1
    command = found.command(options.name or f"{found.model}-v{found.version}-again")
    print(f"\nto make it once more: {shlex.join(['python', 'training/run.py', *command])}")
    here = origin.git_commit()
    if here != found.tags["git_commit"] or not origin.is_commit(here):
        print(f"warning: it was made by {found.tags['git_commit']}, and this is {here}", file=sys.stderr)
    if "history" in found.tags:
        print(f"warning: it was not made by one run without a change: {found.tags['history']}", file=sys.stderr)
    if int(found.settings.get("min_workers", 0)):
        print("warning: fewer workers than it asked for may have made some of its steps (min_workers)", file=sys.stderr)
    return _recreate(found, command) if options.recreate else 0


def _recreate(found: provenance.Provenance, command: Sequence[str]) -> int:
    """Train, and say whether the weights are the same."""
    if code := run.main(command):
        return code
    (config,) = read_configs(command, __doc__)
    result = jobs.read_result(config)  # not the challenger: another run may have registered since
    made = tracking.get_version(result["model"], result["model_version"])
    same = made.tags["weights_sha256"] == found.tags["weights_sha256"]
    print(f"its weights are {'' if same else 'not '}those of {found.model} version {found.version}, bit for bit")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
