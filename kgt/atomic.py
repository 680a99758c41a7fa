"""Files that are there whole or not at all."""

import os
import uuid
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Writes beside the file and then renames, so that a reader or a crash never sees a part; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
