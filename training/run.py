"""Trains one KGT a task, from a version of shards to a registered model.

    python training/run.py task=all
    python training/run.py task=denoise recipe=full workers=8 gpus_per_worker=1 precision=bf16
    python training/run.py task=[sr,jpeg] store=s3://bucket/shards out=s3://bucket/runs/first

Stopped at any moment, the same command goes on from the last checkpoint. Ctrl-C or SIGTERM writes one first; a second
does not wait for it. A run has one driver at a time. Exit code: 0, 1 where a task failed, 2 for a mistake in the
command, where another has the run, and where Ray is gone, or the store at the start, 130 or 143 where it was stopped
by Ctrl-C or SIGTERM.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import as_command
from training.config import read_configs


@as_command("interrupted: the same command goes on from the last checkpoint")
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    configs = read_configs(argv, __doc__)
    from training import controller, summary
    from training.interruption import Interruption

    interruption = Interruption()
    outcomes = controller.run(configs, interruption)
    summary.show(configs[0], outcomes)
    if any(outcome.stopped for outcome in outcomes):
        return interruption.exit_code
    return 0 if all(outcome.result for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
