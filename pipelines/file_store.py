"""A folder as a store. Writes go to a temporary file of the same file system and appear by `rename` or `link`."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kgt.errors import UserError
from pipelines.storage import Absent, Condition, Conflict, Data, Matches, Missing, Stat, check_key, opened

_USERS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ENOTSUP,
}
_TEMPORARY = ".tmp"
_LOCK = ".lock"
_ABANDONED_SECONDS = 24 * 3600.0  # no spool is written for so long


class FileStore:
    """Objects are files below `root`. Hidden files are ours: spools in `.tmp`, the lock of compare-and-set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"file://{root}"

    def get(self, key: str) -> bytes:
        """See Store."""
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> BinaryIO:
        """See Store."""
        try:
            return open(self._path(key), "rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise Missing(f"{self.url}/{key}") from error
        except OSError as error:
            raise self._trouble("read", error) from error

    def put(self, key: str, data: Data, *, condition: Condition = None, sha256: str | None = None) -> str:
        """See Store. `sha256` is not kept: a local file system has its own checks, and records hold the checksum."""
        path = self._path(key)
        try:
            with self._spooled(data) as spooled:
                path.parent.mkdir(parents=True, exist_ok=True)
                etag = _etag(spooled.stat())
                if condition is None:
                    os.replace(spooled, path)
                elif isinstance(condition, Absent):
                    os.link(spooled, path)
                else:
                    self._swap(spooled, path, condition)
                return etag
        except FileExistsError as error:
            if isinstance(condition, Absent) and path.exists():
                raise Conflict(f"{self.url}/{key} exists") from error
            raise self._trouble("written", error) from error
        except OSError as error:
            raise self._trouble("written", error) from error

    def head(self, key: str) -> Stat | None:
        """See Store. The SHA-256 is not known without reading."""
        try:
            stat = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._trouble("read", error) from error
        return Stat(stat.st_size, _etag(stat), stat.st_mtime)

    def list(self, prefix: str) -> Iterator[str]:
        """See Store."""
        found = []
        for folder, folders, files in os.walk(self.root / prefix, onerror=self._unlisted):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [
                Path(folder, name).relative_to(self.root).as_posix() for name in files if not name.startswith(".")
            ]
        yield from sorted(found)

    def delete(self, key: str) -> None:
        """See Store."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise self._trouble("written", error) from error

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _spooled(self, data: Data) -> Iterator[Path]:
        """The data as a file on the store's own file system, on the disk before it is given a name."""
        folder = self.root / _TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        _remove_abandoned(folder, os.fstat(handle).st_mtime)
        try:
            with os.fdopen(handle, "wb") as file, opened(data) as source:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _swap(self, spooled: Path, path: Path, condition: Matches) -> None:
        with open(self.root / _LOCK, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                with open(path, "rb") as file:  # NFS answers for what is opened, and for the rest from its cache
                    found = _etag(os.fstat(file.fileno()))
            except FileNotFoundError:
                found = None
            if found != condition.etag:
                raise Conflict(f"{path} was changed by another writer")
            os.replace(spooled, path)

    def _unlisted(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # else what cannot be read would look empty
            raise self._trouble("read", error) from error

    def _trouble(self, done: str, error: OSError) -> Exception:
        uncreatable = error.errno == errno.ENOENT and str(error.filename).startswith(str(self.root))
        if error.errno in _USERS or uncreatable:
            return UserError(f"store {self.url} cannot be {done}: {error.strerror} ({error.filename or self.root})")
        return error


def _remove_abandoned(folder: Path, now: float) -> None:
    """Remove the spools of processes that were killed. `now` is the file system's time: clocks may differ."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process does the same
            if now - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _etag(stat: os.stat_result) -> str:
    # Every write is a new file, so no two contents share an inode and a time. `link` and `rename` keep both.
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
