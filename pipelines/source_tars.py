"""The images in tar files, such as WebDataset's: found by reading headers alone, to be read by their byte ranges."""

import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from braceexpand import UnbalancedBracesError, braceexpand

from kgt.errors import UserError
from pipelines.storage import Missing

_AT_ONCE = 16  # tars
_AHEAD = 16 << 10  # bytes read with a header: small files that lie between images need no request of their own
_LONGEST = 1 << 20  # bytes of a header, extensions (long names) included

_Fetch = Callable[[int, int], tuple[bytes, int]]  # (offset, size) to the bytes there and the file's whole size


class Member(NamedTuple):
    """A file in a tar: its name behind the tar's, the tar's location, and its offset and size in bytes there."""

    name: str
    location: str
    span: tuple[int, int]


def list_tars(address: str, suffixes: tuple[str, ...], *, at_once: int = _AT_ONCE) -> Iterator[Member]:
    """The regular files with one of `suffixes` in the tars of `address`, tar by tar, in the order of each tar.

    `address` is a path or s3:// address with `{000..012}` and `{a,b}` as in a shell, and for paths `*`, `?` and `[ab]`.
    Of several tars `at_once` are read side by side; with 1, none is read before its files are asked for.

    Raises UserError for a tar that is absent, damaged or cut off, or has two files of one name.
    """
    locations = _expand(address)
    paths = [location.removeprefix("s3://") for location in locations]
    folder = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    named = [(location, posixpath.relpath(path, folder)) for location, path in zip(locations, paths, strict=True)]
    if at_once == 1:
        for location, name in named:
            yield from _members(location, name, suffixes)
        return
    with ThreadPoolExecutor(at_once) as pool:
        for members in pool.map(lambda tar: list(_members(*tar, suffixes)), named):
            yield from members


def _expand(address: str) -> list[str]:
    try:
        patterns = list(braceexpand(address))
    except UnbalancedBracesError as error:
        raise UserError(f"source {address}: a brace is not closed; several tars are x-{{000..012}}.tar") from error
    if address.startswith("s3://"):
        return patterns
    found = []
    for pattern in [address] if Path(address).expanduser().exists() else patterns:
        path = str(Path(pattern).expanduser().absolute())
        found += sorted(glob(path)) if has_magic(path) and not os.path.exists(path) else [path]
    if not found:
        raise UserError(f"source {address}: no such tar")
    return found


def _members(location: str, tar_name: str, suffixes: tuple[str, ...]) -> Iterator[Member]:
    headers = _Headers(_fetch_from(location))
    seen = set()
    try:
        with tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="backslashreplace") as tar:
            while info := tar.next():
                tar.members.clear()  # of which it keeps all
                if info.size < 0 or tar.offset < info.offset_data:  # it would be read for ever
                    raise tarfile.ReadError("a size below nothing")
                if not info.issparse() and info.offset_data + info.size > headers.size:
                    raise tarfile.ReadError("unexpected end of data")
                name = posixpath.normpath(info.name)
                base = posixpath.basename(name)
                if not (info.isreg() and base.lower().endswith(suffixes)) or info.issparse() or base.startswith("."):
                    continue
                if name.startswith(("/", "../")):
                    raise tarfile.ReadError(f"{name} leads out of it")
                if name in seen:
                    raise tarfile.ReadError(f"two files are named {name}")
                seen.add(name)
                yield Member(f"{tar_name}/{name}", location, (info.offset_data, info.size))
            headers.seek(tar.offset)
            if headers.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # which `next` takes for the end as well
                raise tarfile.ReadError("its end is missing")
    except UserError:
        raise
    # Of damaged headers; the last of those that only announce the next.
    except (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError) as error:
        raise UserError(f"source {location}: not a whole tar file: {error}") from error


def _fetch_from(location: str) -> _Fetch:
    """Raises UserError if there is no such file; so does what is returned."""
    if not location.startswith("s3://"):
        return lambda offset, size: _fetch_local(location, offset, size)
    from pipelines.s3_store import S3Store

    bucket, _, key = location.removeprefix("s3://").partition("/")

    def fetch(offset: int, size: int) -> tuple[bytes, int]:
        try:
            return S3Store(bucket).get_range(key, offset, size)
        except Missing as error:
            raise UserError(f"source {location}: no such tar") from error

    return fetch


def _fetch_local(location: str, offset: int, size: int) -> tuple[bytes, int]:
    try:
        with open(location, "rb") as file:
            file.seek(offset)
            return file.read(size), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"source {location}: {error.strerror}") from error


class _Headers:
    """What tarfile needs of a file, for reading headers: small reads, answered from the last piece fetched."""

    def __init__(self, fetch: _Fetch) -> None:
        self._fetch, self._at, self._start = fetch, 0, 0
        self._piece, self.size = fetch(0, _AHEAD)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int) -> None:
        if offset < 0:
            raise tarfile.ReadError("an offset before the beginning")
        self._at = offset

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        wanted = max(0, min(size, self.size - self._at))
        if not self._start <= self._at <= self._at + wanted <= self._start + len(self._piece):
            self._start = self._at
            self._piece, _ = self._fetch(self._at, max(wanted, _AHEAD))
        data = self._piece[self._at - self._start :][:wanted]
        self._at += len(data)
        return data
