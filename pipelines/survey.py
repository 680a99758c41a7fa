"""The survey: what every source image is, and why some are not used. A Ray Data job, one row an image."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kgt.errors import UserError
from kgt.imaging import ImageError, read_image
from pipelines import cluster
from pipelines.sources import Source


@dataclass(frozen=True)
class Image:
    """A usable source image: where it is, the digest of its file (blake2b, 128 bits), its upright size in pixels."""

    name: str
    location: str
    licence: str
    digest: str
    height: int
    width: int
    split: Literal["train", "val"] | None = None

    @property
    def source(self) -> Source:
        """What to read it from."""
        return Source(self.name, self.location, self.licence, self.split)


@dataclass(frozen=True)
class Reject:
    """A source image that is not used. `reason` is a word for statistics, `detail` a line for people."""

    name: str
    reason: str
    detail: str


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
    for row in cluster.each_row(_inspect, [_row(source) for source in sources], cpus=1):
        advance()
        if row["reason"]:
            rejects.append(Reject(row["name"], row["reason"], row["detail"]))
        elif min(row["height"], row["width"]) < crop:
            size = f"{row['width']}x{row['height']} pixels, crop={crop}"
            rejects.append(Reject(row["name"], "smaller-than-crop", size))
        else:
            facts = {key: row[key] for key in ("name", "location", "licence", "digest", "height", "width")}
            images.append(Image(**facts, split=row["split"] or None))
    _check_share(rejects, len(sources), max_reject_fraction)
    images, duplicates = _distinct(images)
    return Survey(tuple(images), tuple(sorted(rejects + duplicates, key=lambda reject: reject.name)))


def digest_of(data: bytes) -> str:
    """The name of a source image's content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _row(source: Source) -> dict[str, Any]:
    return asdict(source) | {"split": source.split or ""}


def _inspect(row: dict[str, Any]) -> dict[str, Any]:
    source = Source(**row)
    found = row | {"digest": "", "height": 0, "width": 0, "reason": "", "detail": ""}
    try:
        data = source.read()
        pixels = read_image(data)
    except ImageError as error:
        return found | {"reason": error.reason, "detail": str(error)}
    except (OSError, LookupError) as error:
        return found | {"reason": "unreadable", "detail": getattr(error, "strerror", None) or "it is gone"}
    return found | {"digest": digest_of(data), "height": pixels.shape[0], "width": pixels.shape[1]}


def _distinct(images: list[Image]) -> tuple[list[Image], list[Reject]]:
    kept: dict[str, Image] = {}
    duplicates = []
    for image in sorted(images, key=lambda image: (image.digest, image.name)):
        if image.digest in kept:
            duplicates.append(Reject(image.name, "duplicate", f"the same file as {kept[image.digest].name}"))
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
