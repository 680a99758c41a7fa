"""The survey: what every source image is, and why some are not used. A Ray Data job, some images a row."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from kgt.errors import UserError
from kgt.imaging import ImageError, read_image
from pipelines import cluster, detail
from pipelines.jpeg_quality import jpeg_quality
from pipelines.sources import Source
from pipelines.withdrawal import Withdrawal

if TYPE_CHECKING:
    from pipelines.leaks import Guard

# Of the clean image and the source's further files: a word for statistics and a line for people, if they do not fit.
Check = Callable[[np.ndarray, Sequence[np.ndarray]], tuple[str, str] | None]

_BATCH = 32  # images of a row at most: a Ray task then takes about a second
_ROWS = 256  # rows wanted before they grow
_NOTHING = Withdrawal()
_NO_FAULT = ("excluded", "leak", "duplicate")  # of the source: they are not held against it


@dataclass(frozen=True, slots=True)
class Image:
    """A usable source image: where it is, the digest of its files (blake2b, 128 bits), its upright size in pixels.

    `jpeg` is the quality at which a JPEG file was compressed; `flatness` is the share of its 32×32 blocks that are
    flat, and `detail` tells which are not (`detail.unpack`); `sharpness` is the variance of its luma's Laplacian.
    """

    source: Source
    digest: str
    height: int
    width: int
    mode: Literal["L", "RGB"] = "RGB"
    jpeg: int | None = None
    flatness: float = 0.0
    sharpness: float = 0.0
    detail: bytes = b""

    def record(self) -> dict[str, Any]:
        """For the list of a version's images."""
        names = ("digest", "height", "width", "mode", "jpeg", "flatness", "sharpness")
        facts = {name: getattr(self, name) for name in names}
        return {"source": self.source.name, "licence": self.source.licence, **facts}


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
    """The usable images, sorted by digest (an order that renaming does not change), and the rejects, by name.

    `unmatched`: patterns of the withdrawal that no source matches; copies of what they meant cannot be told.
    """

    images: tuple[Image, ...]
    rejects: tuple[Reject, ...]
    unmatched: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Finding:
    """What is known of the source of that index. `files` and `withdrawn` are digests of files: all of them, where there
    is a withdrawal, and those that it is about; `patterns` are the ones that matched."""

    index: int
    result: Image | Reject
    files: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()


def survey(
    sources: Sequence[Source],
    crop: int,
    max_reject_fraction: float,
    advance: Callable[[], None] = lambda: None,
    *,
    max_flatness: float = 1.0,
    min_sharpness: float = 0.0,
    min_quality: int = 0,
    withdrawal: Withdrawal = _NOTHING,
    guard: "Guard | None" = None,
    check: Check | None = None,
) -> Survey:
    """Read every source; `advance` is called for each. Images with a side shorter than `crop` pixels are rejects.

    So are those flatter than `max_flatness` (0..1), less sharp than `min_sharpness` (see `detail.sharpness`), JPEG
    files of less than `min_quality`, and those whose further files `check` finds unfit. Not held against the source
    are what is listed as withdrawn, also under another name, what the `guard` finds, and all but one of exact
    duplicates.

    Raises UserError if nothing is usable or more than `max_reject_fraction` of the images is not.
    """
    shared = cluster.Shared(guard) if guard else None
    inspector = _Inspector(crop, max_flatness, min_sharpness, min_quality, withdrawal, shared, check)
    size = max(1, min(_BATCH, -(-len(sources) // _ROWS)))
    rows = [{"first": first, "sources": sources[first : first + size]} for first in range(0, len(sources), size)]
    rejects: list[Reject] = []
    images: list[Image] = []
    files: dict[str, tuple[str, ...]] = {}
    withdrawn: dict[str, str] = {}
    matched: set[str] = set()
    for row in cluster.each_row(inspector, rows, cpus=1, alone=True):
        for finding in row["findings"]:
            advance()
            source = sources[finding.index]
            matched.update(finding.patterns)
            for file in finding.withdrawn:  # of those alike the first by name, in whatever order Ray gives them
                withdrawn[file] = min(source.name, withdrawn.get(file, source.name))
            if isinstance(finding.result, Reject):
                rejects.append(finding.result)
                continue
            # The caller's own source: one that went through Ray is a copy, with copies of all its texts.
            images.append(dataclasses.replace(finding.result, source=source, mode=sys.intern(finding.result.mode)))
            if finding.files:
                files[source.name] = finding.files
    images, copies = _without_copies(images, files, withdrawn)
    _check_share(rejects, len(sources), max_reject_fraction)
    images, duplicates = _distinct(images)
    rejects = sorted(rejects + copies + duplicates, key=lambda reject: reject.name)
    if not images:
        raise UserError(f"none of {len(sources)} source images is left, such as {rejects[0].name}: {rejects[0].detail}")
    unmatched = tuple(pattern for pattern in withdrawal.patterns if pattern not in matched)
    return Survey(tuple(images), tuple(rejects), unmatched)


def digest_of(data: bytes, others: Sequence[bytes] = ()) -> str:
    """The name of a source's content: its clean image's, and what its further files add to it."""
    digest = hashlib.blake2b(data, digest_size=16)
    for other in others:
        digest.update(hashlib.blake2b(other, digest_size=16).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Inspector:
    """What a Ray task does with a row."""

    crop: int
    max_flatness: float
    min_sharpness: float
    min_quality: int
    withdrawal: Withdrawal
    guard: cluster.Shared | None
    check: Check | None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        cv2.setNumThreads(1)  # Ray runs as many tasks as there are cores
        return {"findings": [self._find(row["first"] + index, source) for index, source in enumerate(row["sources"])]}

    def _find(self, index: int, source: Source) -> _Finding:
        try:
            data, others = source.read(), source.read_others()
        except (OSError, LookupError) as error:
            result = Reject(source.name, "unreadable", getattr(error, "strerror", None) or "it is gone")
            matching, files = self.withdrawal.matching(source, "", ()), ()
        else:
            result, files = None, ()
            digest = digest_of(data, others)
            if self.withdrawal.patterns:
                files = (digest_of(data), *map(digest_of, others))
            matching = self.withdrawal.matching(source, digest, files)
        if matching:
            reject = Reject(source.name, "excluded", f"it matches exclude={next(iter(matching))}")
            about = {number for numbers in matching.values() for number in numbers if files}
            return _Finding(index, reject, files, tuple(matching), tuple(files[number] for number in sorted(about)))
        return _Finding(index, result or self._judge(source, digest, data, others), files)

    def _judge(self, source: Source, digest: str, data: bytes, others: Sequence[bytes]) -> Image | Reject:
        try:
            pixels = read_image(data)
        except ImageError as error:
            return Reject(source.name, error.reason, str(error))
        height, width = pixels.shape[:2]
        if min(height, width) < self.crop:
            return Reject(source.name, "smaller-than-crop", f"{width}x{height} pixels, crop={self.crop}")
        quality = jpeg_quality(data)
        if quality is not None and quality < self.min_quality:
            return Reject(source.name, "compressed", f"a JPEG of quality {quality}, min_quality={self.min_quality}")
        further = []
        if self.check:
            for location, other in zip(source.others, others, strict=True):
                try:
                    further.append(read_image(other))
                except ImageError as error:
                    return Reject(source.name, error.reason, f"{location}: {error}")
            if unfit := self.check(pixels, further):
                return Reject(source.name, *unfit)
        luma = detail.luma_of(pixels)
        blocks = detail.detail_map(luma)
        flatness, sharpness = 1 - float(blocks.mean()), detail.sharpness(luma)
        if flatness > self.max_flatness:
            return Reject(source.name, "flat", f"{flatness:.0%} of it is flat, max_flatness={self.max_flatness:g}")
        if sharpness < self.min_sharpness:
            return Reject(source.name, "blurred", f"sharpness {sharpness:.3g}, min_sharpness={self.min_sharpness:g}")
        if self.guard:
            guard = self.guard.get()
            for one in (luma, *map(detail.luma_of, further)):
                if shown := guard.find(one):
                    return Reject(source.name, "leak", f"it shows what the test image {shown} shows")
        mode = "L" if pixels.ndim == 2 else "RGB"
        return Image(source, digest, height, width, mode, quality, flatness, sharpness, detail.pack(blocks))


def _without_copies(
    images: list[Image], files: dict[str, tuple[str, ...]], withdrawn: dict[str, str]
) -> tuple[list[Image], list[Reject]]:
    """The images but those with a file whose bytes were withdrawn under another name."""
    kept, copies = [], []
    for image in images:
        name = image.source.name
        origin = next((withdrawn[file] for file in files.get(name, ()) if file in withdrawn), None)
        if origin is None:
            kept.append(image)
        else:
            copies.append(Reject(name, "excluded", f"a file of it is the same as of {origin}, which is excluded"))
    return kept, copies


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
    faults = [reject for reject in rejects if reject.reason not in _NO_FAULT]
    if len(faults) == total or len(faults) > allowed * total:
        example = min(faults, key=lambda reject: reject.name)
        raise UserError(
            f"{len(faults)} of {total} source images cannot be used, such as {example.name}: {example.detail} "
            f"({'nothing is left' if len(faults) == total else f'max_reject_fraction={allowed:g}'})"
        )
