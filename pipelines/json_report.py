"""A command's figures as a JSON file, whole or not at all."""

import json
import tempfile
from pathlib import Path
from typing import Any

from kgt.atomic import write_atomically
from kgt.errors import UserError


def check_report(path: Path) -> None:
    """See that a report can be written there, before the work is done. Raises UserError."""
    if path.is_dir():
        raise UserError(f"cannot write report {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write report {path}: {error.strerror or error}") from error


def write_report(path: Path, content: Any) -> None:
    """Raises UserError if the place refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write report {path}: {error.strerror or error}") from error
