"""What a job takes along to a cluster: the sources of this checkout that git tracks, as they are now."""

import io
import subprocess
import zipfile
from pathlib import Path

from kgt.errors import UserError
from training import origin

LEFT_BEHIND = ("docs/", "infra/locks/", "tests/")
"""Tracked, and no job needs it."""

LIMIT = 5 * 1000**2
"""Bytes, zipped: the head keeps every upload in memory, and every node fetches it before a job's first task."""

_DATE = (1980, 1, 1, 0, 0, 0)  # the same files are the same upload, which a cluster that has it is not sent again


def pack(checkout: Path) -> bytes:
    """A zip of the tracked files, the same bytes for the same files.

    Raises UserError outside a git checkout, and for more than LIMIT bytes, naming the largest files.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _git(checkout, "ls-files", "-z", "--cached").split("\0"):
            path = checkout / name
            if name and not name.startswith(LEFT_BEHIND) and path.is_file():
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
        members = sorted(archive.infolist(), key=lambda member: member.compress_size, reverse=True)
    data = file.getvalue()
    if len(data) > LIMIT:
        largest = ", ".join(f"{member.filename} ({_megabytes(member.compress_size)})" for member in members[:3])
        raise UserError(
            f"the upload would have {_megabytes(len(data))}, and {_megabytes(LIMIT)} are allowed; "
            f"the largest files: {largest}: what is data belongs into a bucket, not into git"
        )
    return data


def untracked_sources(checkout: Path) -> list[str]:
    """Python files that git neither tracks nor ignores: they stay behind, and a job may miss them."""
    listed = _git(checkout, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py")
    return [name for name in listed.split("\0") if name and not name.startswith(LEFT_BEHIND)]


def git_commit(checkout: Path) -> str:
    """The commit, with `-dirty` where something was changed since."""
    return _git(checkout, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty").strip()


def _git(checkout: Path, *command: str) -> str:
    try:
        return origin.git(checkout, *command)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{checkout} is no git checkout, which says what belongs to a job: "
            "submit from one, or with upload=false run what is on the cluster's image"
        ) from error


def _megabytes(size: int) -> str:
    return f"{size / 1000**2:.1f} MB"
