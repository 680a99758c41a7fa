"""The survey: what every source image is, and why some are not used. A Ray Data job, one row an image."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kgt.errors import UserError
from kgt.imaging import ImageError, read_image
from pipelines import cluster
from pipelines.sources import Source


@dataclass(frozen=True, slots=True)
class Image:
    """A usable source image: where it is, the digest of its files (blake2b, 128 bits), its upright size in pixels.

    `detail` has a bit for each 32×32 block, row by row: 0 where the block is flat (empty: none is).
    """

    source: Source
    digest: str
    height: int
    width: int
    detail: bytes = b""

    def record(self) -> dict[str, Any]:
        """For the list of a version's images."""
        return {"source": self.source.name, "licence": self.source.licence, "digest": self.digest} | {
            "height": self.height,
            "width": self.width,
        }


@dataclass(frozen=True)
class Reject:
    """A source image that is not used. `reason` is a word for statistics, `detail` a line for people."""

    name: str
    reason: str
    detail: str

    def record(self) -> dict[str, str]:
        """For the list of a version's rejects."""
        return {"source": self.name, "reason": self.reason, "detail": self.detail}


@dataclass(frozen=True)
class Survey:
    """The usable images, sorted by digest (an order that renaming does not change), and the rejects, by name."""

    images: tuple[Image, ...]
    rejects: tuple[Reject, ...]


def survey(
    sources: Sequence[Source], crop: int, max_reject_fraction: float, advance: Callable[[], None] = lambda: None
) -> Survey:
    """Read every source; `advance` is called for each. Images with a side shorter than `crop` pixels are rejects.

    Exact duplicates are dropped, and listed, but not held against the source. Raises UserError if nothing is usable or
    more than `max_reject_fraction` of the images is not.
    """
    rejects: list[Reject] = []
    images: list[Image] = []
    for row in cluster.each_row(_inspect, [{"source": source} for source in sources], cpus=1):
        advance()
        found = row["found"]
        if isinstance(found, Reject):
            rejects.append(found)
        elif min(found.height, found.width) < crop:
            size = f"{found.width}x{found.height} pixels, crop={crop}"
            rejects.append(Reject(found.source.name, "smaller-than-crop", size))
        else:
            images.append(found)
    _check_share(rejects, len(sources), max_reject_fraction)
    images, duplicates = _distinct(images)
    return Survey(tuple(images), tuple(sorted(rejects + duplicates, key=lambda reject: reject.name)))


def digest_of(data: bytes, others: Sequence[bytes] = ()) -> str:
    """The name of a source's content: its clean image's, and what its further files add to it."""
    digest = hashlib.blake2b(data, digest_size=16)
    for other in others:
        digest.update(hashlib.blake2b(other, digest_size=16).digest())
    return digest.hexdigest()


def _inspect(row: dict[str, Any]) -> dict[str, Any]:
    source: Source = row["source"]
    try:
        data = source.read()
        pixels = read_image(data)
    except ImageError as error:
        return {"found": Reject(source.name, error.reason, str(error))}
    except (OSError, LookupError) as error:
        return {"found": Reject(source.name, "unreadable", getattr(error, "strerror", None) or "it is gone")}
    return {"found": Image(source, digest_of(data), *pixels.shape[:2])}


def _distinct(images: list[Image]) -> tuple[list[Image], list[Reject]]:
    kept: dict[str, Image] = {}
    duplicates = []
    for image in sorted(images, key=lambda image: (image.digest, image.source.name)):
        if image.digest in kept:
            twin = kept[image.digest].source.name
            duplicates.append(Reject(image.source.name, "duplicate", f"the same file as {twin}"))
        else:
            kept[image.digest] = image
    return list(kept.values()), duplicates


def _check_share(rejects: list[Reject], total: int, allowed: float) -> None:
    if len(rejects) == total or len(rejects) > allowed * total:
        example = min(rejects, key=lambda reject: reject.name)
        raise UserError(
            f"{len(rejects)} of {total} source images cannot be used, such as {example.name}: {example.detail} "
            f"({'nothing is left' if len(rejects) == total else f'max_reject_fraction={allowed:g}'})"
        )
