"""Where clean images come from: the built-in sample, a folder, a bucket, tar files, a list."""

import errno
import itertools
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from kgt.errors import UserError
from kgt.imaging.files import WRITABLE
from pipelines.sample import PHOTOGRAPHS
from pipelines.source_tars import list_tars

MAX_FILE_BYTES = 512 << 20
"""More than an image has of 8 bits a channel and the most pixels that are read: no file may fill a machine's memory."""

_SUFFIXES = tuple(WRITABLE)
_KINDS = "a folder, s3://bucket/folder, tars as FOLDER/{000..012}.tar, a list as FILE.txt, or sample"


@dataclass(frozen=True, slots=True)
class Source:
    """One clean image, not read yet.

    `name` is unique within its source (a relative path); `location` is a path or `s3://bucket/key`; `split` is set
    where the source itself says what is held out. `others` are the locations of further files that belong to it.
    `span` is where in the file at `location` the image lies, offset and size in bytes, if it is not all of it.
    Images of one `group` show one scene: they belong on the same side of a split.
    """

    name: str
    location: str
    licence: str
    split: Literal["train", "val"] | None = None
    others: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    group: str | None = None

    def read(self) -> bytes:
        """The clean image's file. Raises OSError, or LookupError from a bucket, if it is gone or cannot be read."""
        return read_location(self.location, self.span)

    def read_others(self) -> list[bytes]:
        """The further files, in order. Raises as `read` does."""
        return [read_location(location) for location in self.others]


def list_sources(address: str, licence: str, limit: int | None = None) -> list[Source]:
    """The images at `address`, in the order of their names; the first `limit` of them, if it is given.

    `sample`; a folder (searched through) or `s3://bucket/prefix`; tar files, local or in a bucket, with `{000..012}`
    and, locally, `*`; a list (`.txt`): a path relative to the list's folder or an `s3://` address on every line, with
    a licence of its own after a tab, in the list's own order. What a list names need not be there.

    Raises UserError if there is no such place or no image in it.
    """
    if not address:
        raise UserError(f"source is empty: write {_KINDS}")
    if "://" in address and not address.startswith("s3://"):
        raise UserError(f"source {address}: unknown scheme; write {_KINDS}")
    found = list(itertools.islice(_find(address, licence, lazily=limit is not None), limit))
    if not found:
        raise UserError(f"source {address}: no image there ({', '.join(_SUFFIXES)})")
    return found


def read_location(location: str, span: tuple[int, int] | None = None) -> bytes:
    """The file at a path or `s3://bucket/key`, or the part of it at `span`. Raises OSError or LookupError.

    So it does for more than MAX_FILE_BYTES.
    """
    if span is not None and span[1] > MAX_FILE_BYTES:
        raise _too_large()
    if not location.startswith("s3://"):
        with open(location, "rb") as file:
            if span is None:
                return _bounded(file)
            file.seek(span[0])
            return file.read(span[1])
    from pipelines.s3_store import S3Store

    bucket, _, key = location.removeprefix("s3://").partition("/")
    if span is not None:
        return S3Store(bucket).get_range(key, *span)[0]
    with S3Store(bucket).open(key) as stream:
        return _bounded(stream)


def _bounded(file: BinaryIO) -> bytes:
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise _too_large()
    return data


def _too_large() -> OSError:
    return OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES >> 20} MiB")


def _find(address: str, licence: str, *, lazily: bool) -> Iterator[Source]:
    if address == "sample":
        return (Source(photo.file, str(photo.path), photo.licence, photo.split) for photo in PHOTOGRAPHS)
    if address.endswith(".tar"):
        members = list_tars(address, _SUFFIXES, **({"at_once": 1} if lazily else {}))
        return (Source(member.name, member.location, licence, span=member.span) for member in members)
    if address.endswith(".txt"):
        return _list_file(address, licence)
    if address.startswith("s3://"):
        return _list_bucket(address, licence)
    return _list_folder(Path(address).expanduser().absolute(), licence)


def _list_folder(folder: Path, licence: str) -> Iterator[Source]:
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: name its folder" if folder.exists() else f"no such folder: {folder}")
    for path in _walk(str(folder), ()):
        yield Source(os.path.relpath(path, folder), path, licence)


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """Paths of the images under a folder, sorted part by part, without hidden ones; no more is read than is asked.

    Links to folders are followed, but not into a folder that it is in: `above` are the real paths of those.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, (*above, real))
        elif entry.name.lower().endswith(_SUFFIXES) and entry.name[0] != "." and entry.is_file():
            yield entry.path


def _list_bucket(address: str, licence: str) -> Iterator[Source]:
    from pipelines.s3_store import S3Store

    bucket, _, folder = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise UserError(f"source {address}: a bucket is missing, as in s3://bucket/folder")
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    for key in S3Store(bucket).list(prefix):
        if key.lower().endswith(_SUFFIXES) and not posixpath.basename(key).startswith("."):
            yield Source(key.removeprefix(prefix), f"s3://{bucket}/{key}", licence)


def _list_file(address: str, licence: str) -> Iterator[Source]:
    remote = address.startswith("s3://")
    folder = address.rpartition("/")[0] if remote else str(Path(address).expanduser().absolute().parent)
    seen = set()
    for line in read_lines(address):
        name, _, own = (part.strip() for part in line.partition("\t"))
        if "://" in name and not name.startswith("s3://"):
            raise UserError(f"{address}: {name} has an unknown scheme; write a path or s3://bucket/key")
        if name not in seen:
            seen.add(name)
            yield Source(name, name if "://" in name else posixpath.join(folder, name), own or licence)


def read_lines(address: str) -> list[str]:
    """The lines of a text file, a path or s3:// address, but for blank ones and `#` comments. Raises UserError."""
    try:
        text = read_location(address if "://" in address else str(Path(address).expanduser())).decode("utf-8-sig")
    except (OSError, LookupError) as error:
        raise UserError(f"cannot read {address}: {getattr(error, 'strerror', None) or 'no such file'}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{address} is no list: not a text in UTF-8") from error
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
