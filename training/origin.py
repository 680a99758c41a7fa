"""What a model comes from beside its data: the code's commit and the environment."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment() -> str:
    """Python, platform and the versions of what computes, in one line."""
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "numba", "deepspeed", "ray")]
    return ", ".join([f"Python {platform.python_version()}", platform.platform(), *versions])


def git_commit() -> str:
    """The commit of the checkout, with `-dirty` where it was changed since.

    Outside one (`ray job submit` leaves `.git` behind): KGT_GIT_COMMIT, else `source-` and a digest of the sources.
    """
    ask = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("KGT_GIT_COMMIT") or f"source-{_source_digest()}"


def _source_digest() -> str:
    """blake2b, 64 bits, of what is run: paths and contents of the packages' Python files and recipes."""
    packages = [ROOT / name for name in ("kgt", "pipelines", "training")]
    files = sorted(path for package in packages for path in package.rglob("*") if path.suffix in (".py", ".yaml"))
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def requirements(*names: str) -> list[str]:
    """The packages as pip is asked for them, in the public versions that are installed here."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
