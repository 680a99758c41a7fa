"""The next version of the shards, with fresh randomness: what a timer runs. Its number is the epoch of its randomness.

    python pipelines/regenerate.py task=all
    python pipelines/regenerate.py task=[jpeg,sr] source=s3://bucket/photos store=s3://bucket/shards keep=5
    python pipelines/regenerate.py task=all fraction=0.25
    python pipelines/regenerate.py task=all only_if_changed=true

Takes what synthesize.py takes; give it the same. A new version is compared with the live one, and a sample of it read
back, before it is published. Validation pairs stay the same from version to version. Safe to run twice, and after a
crash. Exit code 0: published, or nothing to do; 2: refused, and the live version stays.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import as_command
from pipelines import factory
from pipelines.job_options import RenewalOptions
from pipelines.options import parse


@as_command("interrupted: finished shards are kept, the same command goes on from here")
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    factory.run(parse(RenewalOptions, argv, __doc__))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
