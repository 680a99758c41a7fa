"""Object storage behind one small interface: `file:///…` and `s3://…`.

Objects appear whole or not at all, and a conditional `put` either
happens or raises `Conflict`: that is all the coordination that versions need. Stores can be pickled into Ray tasks.
"""

import contextlib
import gzip
import hashlib
import io
import json
import re
import secrets
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from kgt.errors import UserError
from kgt.home import home

MAX_JSON_BYTES = 256 << 20
"""More than the manifest of a million shards has: whoever may write to a store must not fill its readers' memory."""

MAX_LIST_BYTES = 512 << 20
"""Of a list, unpacked: two million images."""

MAX_RECORD_BYTES = 1 << 20

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")  # never out of the store


class Unavailable(UserError):
    """The store does not answer, or says that it cannot now: the one UserError that may be gone a minute later."""


class Missing(LookupError):
    """There is no object of that key."""


class Malformed(RuntimeError):
    """An object is not the JSON that it should be."""


class Conflict(RuntimeError):
    """The condition of a `put` did not hold: another writer was first."""


@dataclass(frozen=True)
class Absent:
    """Condition: no object has this key yet."""


@dataclass(frozen=True)
class Matches:
    """Condition: the object is still the one that had this etag."""

    etag: str


Condition = Absent | Matches | None

Data = bytes | Path | BinaryIO
"""What a `put` takes: bytes, a local file, or an open one that is taken from its beginning."""


@dataclass(frozen=True)
class Stat:
    """An object's size in bytes, its etag (it changes with every write), when it was written (seconds since 1970), and
    the SHA-256 that it was put with where the store keeps that."""

    size: int
    etag: str
    modified: float
    sha256: str | None = None


class Store(Protocol):
    """What pipelines and training need of a store. A missing object raises Missing; trouble that is the user's to mend
    (denied, no such bucket, a full disk) UserError, and Unavailable where it may pass by itself."""

    url: str

    def get(self, key: str) -> bytes:
        """The whole object."""

    def open(self, key: str) -> BinaryIO:
        """The object as a stream."""

    def put(self, key: str, data: Data, *, condition: Condition = None, sha256: str | None = None) -> str:
        """Write bytes, or a file's, at once; return the etag. `sha256` is the data's where it is already known.

        Raises Conflict if `condition` does not hold.
        """

    def head(self, key: str) -> Stat | None:
        """What is known of an object without reading it; None if there is none."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below `prefix` (a folder, ending in `/`), sorted."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""


def check_key(key: str) -> str:
    """The key. Raises ValueError for one that is absolute, hidden, has `..` or signs that not every store can keep."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a key: {key!r}")
    return key


def open_store(url: str) -> Store:
    """The store of that address; an empty one is `file://$KGT_HOME/shards`. Nothing is read or written yet.

    Raises UserError for another scheme, and for a path that is not absolute.
    """
    url = url or f"file://{home() / 'shards'}"
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "file":
        from pipelines.file_store import FileStore

        if not rest.startswith("/"):
            raise UserError(f"store {url}: a folder is written with its absolute path, as in file:///{rest or 'data'}")
        return FileStore(Path(rest))
    if separator and scheme == "s3":
        from pipelines.s3_store import S3Store

        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise UserError(f"store {url}: a bucket is missing, as in s3://bucket/folder")
        return S3Store(bucket, prefix.strip("/"))
    raise UserError(f"store {url}: unknown scheme; write file:///absolute/folder or s3://bucket/folder")


def read_bytes(store: Store, key: str) -> bytes:
    """The whole object. Raises Missing, and Malformed where it has more than MAX_JSON_BYTES."""
    with store.open(key) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise Malformed(f"it is larger than {MAX_JSON_BYTES >> 20} MiB")
    return data


def read_json(store: Store, key: str) -> Any:
    """The JSON in an object. Raises Missing, and Malformed where it is not JSON, or more than MAX_JSON_BYTES of it."""
    return _parsed(read_bytes(store, key))


def read_records(store: Store, key: str) -> Iterator[dict[str, Any]]:
    """The objects of a list, each a line of JSON; a key in `.gz` is unpacked. No more than a line is kept in memory.

    Raises Missing, and Malformed for what is no such list, or has a line or a length beyond the bounds above.
    """
    read = 0
    with store.open(key) as file, gzip.open(file) if key.endswith(".gz") else file as lines:
        while line := _line(lines):
            read += len(line)
            if len(line) > MAX_RECORD_BYTES:
                raise Malformed(f"a line of it is larger than {MAX_RECORD_BYTES >> 20} MiB")
            if read > MAX_LIST_BYTES:
                raise Malformed(f"it is larger than {MAX_LIST_BYTES >> 20} MiB")
            record = _parsed(line)
            if not isinstance(record, dict):
                raise Malformed("a line of it is no record")
            yield record


def _line(lines: BinaryIO) -> bytes:
    try:
        return lines.readline(MAX_RECORD_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Malformed(f"it is no whole gzip file: {error}") from error


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    except ValueError as error:
        raise Malformed(f"it is not JSON: {error}") from error


@contextlib.contextmanager
def opened(data: Data) -> Iterator[BinaryIO]:
    """What a `put` was given, to be read from its beginning."""
    if isinstance(data, bytes):
        yield io.BytesIO(data)
    elif isinstance(data, Path):
        with open(data, "rb") as file:
            yield file
    else:
        data.seek(0)
        yield data


def put_made(store: Store, key: str, make: Callable[[Path], None]) -> None:
    """Put the file that `make` writes at the path it is given, of the key's own name."""
    with tempfile.TemporaryDirectory(prefix="kgt-put-") as folder:
        path = Path(folder) / key.rpartition("/")[2]
        make(path)
        store.put(key, path)


def holds(store: Store, key: str, size: int, sha256: str) -> bool:
    """Whether an object has that size in bytes and that SHA-256; it is read where the store keeps no checksum."""
    stat = store.head(key)
    if stat is None or stat.size != size:
        return False
    if stat.sha256:
        return stat.sha256 == sha256
    try:
        with store.open(key) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except Missing:
        return False


def clock(store: Store) -> float:
    """The store's own time, seconds since 1970: when an object would be written that was put now."""
    key = f"probe-{secrets.token_hex(8)}"
    store.put(key, b"1")
    try:
        return store.head(key).modified
    finally:
        store.delete(key)


def check_writable(store: Store) -> None:
    """See that the store can be written and honours conditional writes. Raises UserError.

    A store that ignores conditions would let two runs overwrite each other's version without a word.
    """
    key = f"probe-{secrets.token_hex(8)}"
    etag = store.put(key, b"1", condition=Absent())
    try:
        if not (_refused(store, key, Absent()) and _refused(store, key, Matches('"0"'))):
            raise UserError(
                f"store {store.url} ignores conditional writes (If-None-Match, If-Match), so versions are not safe "
                "there: use AWS S3, MinIO, Ceph or another endpoint that honours them"
            )
        store.put(key, b"2", condition=Matches(etag))
    finally:
        with contextlib.suppress(UserError):
            store.delete(key)


def _refused(store: Store, key: str, condition: Condition) -> bool:
    try:
        store.put(key, b"x", condition=condition)
    except Conflict:
        return True
    return False
