"""Degraded/clean training pairs from clean images, as versioned shards.

    python pipelines/synthesize.py task=all
    python pipelines/synthesize.py task=jpeg source='my photographs' tasks.jpeg.quality='{min: 20, max: 80}'
    python pipelines/synthesize.py task=[sr,denoise] source=s3://bucket/photos store=s3://bucket/shards
    python pipelines/synthesize.py task=weather plan_only=true preview=sheet.png

Stopped at any moment, the same command goes on where it was, and ends in the same bytes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import as_command
from pipelines import factory
from pipelines.job_options import Options
from pipelines.options import parse


@as_command("interrupted: finished shards are kept, the same command goes on from here")
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    factory.run(parse(Options, argv, __doc__))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
