"""The shard format: plain ustar tars in WebDataset's layout, three members a pair.

    <id>.clean.<ext>  <id>.degraded.<ext>  <id>.json

Images are lossless and can be read with Pillow alone. Codecs by measurement (`tests/benchmarks/codecs.py`; 256² crop of
a photograph, milliseconds to encode / decode, KB): RGB as WebP 2.0 / 0.8, 64 (PNG 3.7 / 1.4, 83); one 8-bit plane as
TIFF 0.1 / 0.1, 66 (PNG 1.7 / 0.6, 42); noise in 16 bits as TIFF 0.1 / 0.2, 393 (PNG 14 / 2.5, 368).

A float image (denoise: neither clipped nor rounded) is 16-bit fixed point over [−1, 2], good to 0.006/255; its colour
planes are stacked on top of each other, since Pillow has no 16-bit RGB. Values beyond the range are clipped.

Nothing that is read is trusted: only regular members of the known names, bounded in size, through these decoders.
"""

import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

FORMAT = 2  # of the files, and of the pairs: other code for a degradation is another format
MAX_IMAGE_BYTES = 256 << 20
MAX_JSON_BYTES = 1 << 20
MAX_PIXELS = 1 << 27

_LOW, _HIGH = -1.0, 2.0
_STEPS = 65535 / (_HIGH - _LOW)
_BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(r"([A-Za-z0-9_-]{1,80})\.((?:clean|degraded)\.(?:webp|tiff)|json)", re.ASCII)
_FORMATS = {"webp": "WEBP", "tiff": "TIFF"}

Sample = dict[str, Any]


class ShardError(ValueError):
    """A shard or a pair is not what this format allows: cut off, forged or of another version."""


@dataclass(frozen=True)
class Pair:
    """One training pair. `clean` uint8 (H, W, 3) or (H, W); `degraded` uint8, or float32 with 1.0 = white, unclipped.

    `meta` is the pair's JSON: `task`, `parameters` drawn, `seed`, `epoch`, `source` digest, `licence`, `crop`, sizes.
    """

    key: str
    clean: np.ndarray
    degraded: np.ndarray
    meta: dict[str, Any]


def encode_pair(key: str, clean: np.ndarray, degraded: np.ndarray, meta: Mapping[str, Any]) -> Sample:
    """The pair as WebDataset has it: `__key__` and the bytes of its members. The same pair gives the same bytes."""
    clean_suffix, clean_bytes = _encode_image(clean)
    degraded_suffix, degraded_bytes = _encode_image(degraded)
    record = {"format": FORMAT, "layout": _layout(degraded), **meta}
    return {
        "__key__": key,
        f"clean.{clean_suffix}": clean_bytes,
        f"degraded.{degraded_suffix}": degraded_bytes,
        "json": json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode(),
    }


def decode_pair(sample: Mapping[str, Any]) -> Pair:
    """The pair of a sample that `read_shard` (or webdataset) gave. Raises ShardError."""
    members = {name.partition(".")[0]: name for name in sample if not name.startswith("__")}
    if set(members) != {"clean", "degraded", "json"}:
        raise ShardError(f"pair {sample.get('__key__')}: members {sorted(members)}")
    try:
        meta = json.loads(sample["json"])
        if meta["format"] != FORMAT:
            raise ShardError(f"pair {sample.get('__key__')}: format {meta['format']}, this code reads {FORMAT}")
        clean = _decode_image(members["clean"], sample[members["clean"]], "u8")
        degraded = _decode_image(members["degraded"], sample[members["degraded"]], meta["layout"])
    except ShardError:
        raise
    except (
        *(ValueError, KeyError, TypeError, RecursionError, ArithmeticError),
        *(OSError, SyntaxError, zlib.error, Image.DecompressionBombError),
    ) as error:
        raise ShardError(f"pair {sample.get('__key__')}: {error}") from error
    return Pair(sample["__key__"], clean, degraded, meta)


def write_shard(samples: Iterable[Sample], file: BinaryIO) -> int:
    """Write the samples as a tar whose bytes depend on nothing else; return how many there were."""
    count = 0
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for name in sorted(name for name in sample if name != "__key__"):
                info = tarfile.TarInfo(f"{sample['__key__']}.{name}")  # mtime, uid and gid are 0, the mode is 0644
                info.size = len(sample[name])
                tar.addfile(info, io.BytesIO(sample[name]))
            count += 1
    return count


def read_shard(file: BinaryIO) -> Iterator[Sample]:
    """The samples of a shard, streamed. Raises ShardError for anything that `write_shard` would not have written."""
    sample: Sample = {}
    seen: set[str] = set()
    for key, name, data in _members(file):
        if sample and sample["__key__"] != key:
            yield _whole(sample)
            sample = {}
        if not sample:
            if key in seen:
                raise ShardError(f"pair {key} appears twice")
            seen.add(key)
            sample = {"__key__": key}
        if name in sample:
            raise ShardError(f"member {key}.{name} appears twice")
        sample[name] = data
    if sample:
        yield _whole(sample)


def read_published(file: BinaryIO, sha256: str) -> Iterator[Sample]:
    """`read_shard`, and to the end of the file, whose SHA-256 is compared after the last sample. Raises ShardError."""
    hashed = _HashedReader(file)
    with io.BufferedReader(hashed, 1 << 20) as buffered:
        yield from read_shard(buffered)
        while buffered.read(1 << 20):  # a tar ends before its file does
            pass
    if hashed.sha256.hexdigest() != sha256:
        raise ShardError("another SHA-256")


class _HashedReader(io.RawIOBase):
    """A stream that keeps the SHA-256 of what was read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        data = self._file.read(len(buffer))
        self.sha256.update(data)
        buffer[: len(data)] = data
        return len(data)


def _members(file: BinaryIO) -> Iterator[tuple[str, str, bytes]]:
    """Every member as (key, name, bytes). Headers are read by themselves: no extension of tar gets a chance."""
    while True:
        header = _exactly(file, _BLOCK)
        if header == bytes(_BLOCK):
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise ShardError(f"not a tar header: {error}") from error
        match = _NAME.fullmatch(info.name)
        if info.type != tarfile.REGTYPE or match is None:
            raise ShardError(f"member {info.name[:120]!r} is not allowed")
        if not 0 <= info.size <= (MAX_JSON_BYTES if match[2] == "json" else MAX_IMAGE_BYTES):
            raise ShardError(f"member {info.name} of {info.size} bytes is too large")
        data = _exactly(file, info.size)
        _exactly(file, -info.size % _BLOCK)
        yield match[1], match[2], data


def _exactly(file: BinaryIO, size: int) -> bytes:
    parts = []
    while size:
        part = file.read(size)
        if not part:
            raise ShardError("cut off")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _whole(sample: Sample) -> Sample:
    if sorted(name.partition(".")[0] for name in sample) != ["__key__", "clean", "degraded", "json"]:
        raise ShardError(f"pair {sample['__key__']} is not whole")
    return sample


def _layout(image: np.ndarray) -> str:
    """How pixels are packed: `u8`, or for floats `fixed16` with the number of stacked planes."""
    return "u8" if image.dtype == np.uint8 else f"fixed16x{1 if image.ndim == 2 else image.shape[2]}"


def _encode_image(image: np.ndarray) -> tuple[str, bytes]:
    if image.dtype == np.float32:
        fixed = np.rint((np.clip(image, _LOW, _HIGH) - _LOW) * _STEPS).astype(np.uint16)
        image = fixed if fixed.ndim == 2 else fixed.transpose(2, 0, 1).reshape(-1, fixed.shape[1])
    elif image.dtype != np.uint8:
        raise TypeError(f"images are uint8 or float32, not {image.dtype}")
    buffer = io.BytesIO()
    if image.ndim == 3:
        Image.fromarray(image).save(buffer, "WEBP", lossless=True, method=0, quality=0)
        return "webp", buffer.getvalue()
    Image.fromarray(image).save(buffer, "TIFF")
    return "tiff", buffer.getvalue()


def _decode_image(name: str, data: bytes, layout: str) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=[_FORMATS[name.rpartition(".")[2]]]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ShardError(f"{name}: {image.width}x{image.height} pixels are too many")
        if image.info.get("compression", "raw") != "raw":
            raise ShardError(f"{name}: TIFF compression {image.info['compression']} is not allowed")
        pixels = np.asarray(image)
    if layout == "u8" and pixels.dtype == np.uint8:
        return pixels
    planes = {"fixed16x1": 1, "fixed16x3": 3}.get(layout)
    if planes is None or pixels.dtype != np.uint16 or pixels.ndim != 2 or pixels.shape[0] % planes:
        raise ShardError(f"{name}: {pixels.dtype} {pixels.shape} is not of layout {layout}")
    stacked = pixels.reshape(planes, -1, pixels.shape[1])
    values = stacked.astype(np.float32)
    values /= np.float32(_STEPS)
    values += np.float32(_LOW)
    return values[0] if planes == 1 else values.transpose(1, 2, 0)  # a view: training takes a patch of it, in planes
