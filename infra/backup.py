"""Keeps a file in a store, one copy for each day of a month: what becomes of the nightly dump of MLflow's database.

    pg_dump --format=custom --file=mlflow.dump mlflow
    python infra/backup.py file=mlflow.dump store=s3://BUCKET/backups

Today's copy of mlflow.dump is mlflow-07.dump on the 7th (UTC), in place of last month's: there are never more than 31,
and nothing has to be allowed to delete. Keep them where MLflow's readers do not reach, so not among its artifacts.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # a script's own folder comes first otherwise
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import UserError, as_command
from pipelines.options import about, parse
from pipelines.storage import open_store


@dataclass
class Options:
    """What the command line can say."""

    file: str = field(default="", metadata=about("what is kept"))
    store: str = field(default="", metadata=about("where: file:///folder or s3://bucket/folder"))


@as_command()
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    options = parse(Options, argv, __doc__)
    path = Path(options.file)
    if not options.file or not options.store:
        raise UserError("file and store are wanted, as in: file=mlflow.dump store=s3://bucket/backups")
    if not path.is_file() or not path.stat().st_size:
        raise UserError(f"file={path}: {'it is empty' if path.is_file() else 'no such file'}: nothing is kept")
    store = open_store(options.store)
    key = f"{path.stem}-{time.strftime('%d', time.gmtime())}{path.suffix}"
    store.put(key, path)
    print(f"{store.url}/{key}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
