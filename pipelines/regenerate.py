"""The next version of the shards, with fresh randomness: what a timer runs. Its number is the epoch of its randomness.

    python pipelines/regenerate.py task=all
    python pipelines/regenerate.py task=[jpeg,sr] source=s3://bucket/photos store=s3://bucket/shards keep=5
    python pipelines/regenerate.py task=all only_if_changed=true

Takes what synthesize.py takes; give it the same. A new version is compared with the current one before it is published.
Validation pairs stay the same from version to version. Safe to run twice, and after a crash.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import UserError
from pipelines import factory
from pipelines.options import about, parse


@dataclass
class Options(factory.Options):
    """What `regenerate.py` takes."""

    keep: int = field(default=3, metadata=about("versions kept, beside pinned ones"))
    only_if_changed: bool = field(default=False, metadata=about("act only if sources, settings or format changed"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 1:
            raise UserError(f"keep={self.keep}: at least one version is kept")


def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    try:
        options = parse(Options, argv, __doc__)
        factory.run(options, renew=not options.only_if_changed, keep=options.keep)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished shards are kept, the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
