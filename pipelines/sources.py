"""Where clean images come from: the built-in sample, a folder, a bucket."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kgt.errors import UserError
from kgt.imaging import list_images
from kgt.imaging.files import WRITABLE
from pipelines.sample import PHOTOGRAPHS

_SUFFIXES = tuple(WRITABLE)  # the same for a bucket as `list_images` has for a folder


@dataclass(frozen=True, slots=True)
class Source:
    """One clean image, not read yet.

    `name` is unique within its source (a relative path); `location` is a path or `s3://bucket/key`; `split` is set
    where the source itself says what is held out. `others` are the locations of further files that belong to it.
    """

    name: str
    location: str
    licence: str
    split: Literal["train", "val"] | None = None
    others: tuple[str, ...] = ()

    def read(self) -> bytes:
        """The clean image's file. Raises OSError, or LookupError from a bucket, if it is gone or cannot be read."""
        return _read(self.location)

    def read_others(self) -> list[bytes]:
        """The further files, in order. Raises as `read` does."""
        return [_read(location) for location in self.others]


def list_sources(address: str, licence: str) -> list[Source]:
    """The images at `address`: `sample`, a folder (searched through) or `s3://bucket/prefix`, sorted by name.

    Raises UserError if there is no such place or no image in it.
    """
    if not address:
        raise UserError("source is empty: write a folder, s3://bucket/folder or sample")
    if address == "sample":
        return [Source(photo.file, str(photo.path), photo.licence, photo.split) for photo in PHOTOGRAPHS]
    if address.startswith("s3://"):
        return _list_bucket(address, licence)
    if "://" in address:
        raise UserError(f"source {address}: unknown scheme; write a folder, s3://bucket/folder or sample")
    folder = Path(address).expanduser().absolute()
    return [Source(path.relative_to(folder).as_posix(), str(path), licence) for path in list_images(folder)]


def _read(location: str) -> bytes:
    if not location.startswith("s3://"):
        return Path(location).read_bytes()
    from pipelines.s3_store import S3Store

    bucket, _, key = location.removeprefix("s3://").partition("/")
    return S3Store(bucket).get(key)


def _list_bucket(address: str, licence: str) -> list[Source]:
    from pipelines.s3_store import S3Store

    bucket, _, folder = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise UserError(f"source {address}: a bucket is missing, as in s3://bucket/folder")
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    names = [key for key in S3Store(bucket).list(prefix) if key.lower().endswith(_SUFFIXES)]
    if not names:
        raise UserError(f"source {address}: no image there ({', '.join(_SUFFIXES)})")
    return [Source(key.removeprefix(prefix), f"s3://{bucket}/{key}", licence) for key in names]
