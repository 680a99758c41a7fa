"""What a model comes from beside its data: the code's commit and the environment."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DIRTY = "-dirty"
SOURCES = "source-"

_PACKAGES = ("kgt", "pipelines", "training")
_SUFFIXES = (".py", ".yaml")


def environment() -> str:
    """Python, platform and the versions of what computes, in one line."""
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "numba", "deepspeed", "ray")]
    return ", ".join([f"Python {platform.python_version()}", platform.platform(), *versions])


def git_commit() -> str:
    """The commit of the checkout, with DIRTY where it was changed since, be it by a source that git does not track.

    Outside one (`ray job submit` leaves `.git` behind): KGT_GIT_COMMIT, else SOURCES and a digest of them.
    """
    try:
        commit = git(ROOT, "describe", "--always", "--abbrev=40", "--exclude=*", f"--dirty={DIRTY}").strip()
        untracked = git(ROOT, "ls-files", "--others", "--exclude-standard", "--", *_PACKAGES).splitlines()
        added = any(Path(name.strip('"')).suffix in _SUFFIXES for name in untracked)
        return commit + DIRTY if added and not commit.endswith(DIRTY) else commit
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("KGT_GIT_COMMIT") or f"{SOURCES}{_source_digest()}"


def is_commit(code: str) -> bool:
    """Whether what `git_commit` says is a commit that has all of the code."""
    return not code.startswith(SOURCES) and not code.endswith(DIRTY)


def git(checkout: Path, *command: str) -> str:
    """What git answers there, also who does not own the checkout. Raises OSError and CalledProcessError."""
    words = ["git", "-c", f"safe.directory={checkout}", "-C", str(checkout), *command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _source_digest() -> str:
    """blake2b, 64 bits, of what is run: paths and contents of the packages' Python files and recipes."""
    packages = [ROOT / name for name in _PACKAGES]
    files = sorted(path for package in packages for path in package.rglob("*") if path.suffix in _SUFFIXES)
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def requirements(*names: str) -> list[str]:
    """The packages as pip is asked for them, in the public versions that are installed here."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
