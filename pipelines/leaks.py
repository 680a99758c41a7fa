"""The leak guard: does a source image show what a test image shows, also cropped, resized or recompressed?

Local features find candidates; geometry and pixels decide. ORB features (Rublee et al. 2011) of the guarded images lie
in hash tables, one for each 16-bit word of a descriptor, as in multi-index hashing (Norouzi, Punjani & Fleet 2012).
Descriptors that share a word and differ in few bits vote for their image; a similarity transform is fitted to the votes
(RANSAC), and the image is found if, laid over the source by it, their fine structure correlates. Images without
features are compared as a whole: the one whose small picture is nearest, by the same correlation.

Measured by `tests/benchmarks/leaks.py`; figures and limits are in docs/leak-guard.md. Mirrored images are not found.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from kgt.errors import UserError
from kgt.imaging import ImageError, read_image
from pipelines import cluster
from pipelines.detail import luma_of
from pipelines.sources import Source, list_sources

MAX_GUARDED = 2000  # images: 0.26 MB each, once on every machine

_SIDE = 512  # pixels of the longer side at which a source's features are sought
_FEATURES = 400
# A crop of a quarter of the area fills _SIDE with what is half as large in the guarded image: that is described twice.
_GUARDED_SIDES = {_SIDE: _FEATURES, 2 * _SIDE: 1500}
_WORDS = 16  # 16-bit words of a descriptor
_CROWD = 64  # features: a word that more of them share tells little, and bounding them bounds the work
_NEAR = 56  # bits of 256 in which descriptors of the same spot differ at most
_VOTES = 6
_CANDIDATES = 4
_REPROJECTION = 3.0  # pixels of a picture, of an inlier
_PICTURE = 256  # pixels of the longer side of the pictures that are laid over each other
_SMALL = 32
_OVERLAP = 0.15  # of the source's picture that the guarded one covers at least
# Other photographs reached 0.21 in 31 000 comparisons; those found again have 0.8 and more, but for a few.
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class View:
    """What is compared of an image: `digest` of its luma; `picture` uint8 (h, w), the luma with its longer side
    `_PICTURE` pixels; ORB features as `points` float32 (N, 2), x and y in pixels of the picture, and `descriptors`
    uint8 (N, 32)."""

    digest: bytes
    picture: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


class Guard:
    """An index of guarded images, read only. It is a few arrays, which Ray shares among a machine's tasks."""

    def __init__(self, names: Sequence[str], views: Sequence[View]) -> None:
        self.names = tuple(names)
        self._digests = {view.digest: name for name, view in zip(names, views, strict=True)}
        self._pictures = [view.picture for view in views]
        self._small = np.stack([_small(view.picture) for view in views])
        self._points = np.concatenate([view.points for view in views])
        self._descriptors = np.concatenate([view.descriptors for view in views])
        self._owners = np.repeat(np.arange(len(views), dtype=np.int32), [len(view.points) for view in views])
        # For each word's table: features in the order of their words, and where each word begins.
        words = self._descriptors.view(np.uint16)
        self._order = np.argsort(words, axis=0, kind="stable").astype(np.int32).T.copy()
        counts = [np.bincount(words[:, table], minlength=1 << 16) for table in range(_WORDS)]
        self._begins = np.pad(np.cumsum(counts, axis=1, dtype=np.int32), ((0, 0), (1, 0)))

    def find(self, luma: np.ndarray) -> str | None:
        """The name of the guarded image that `luma`, uint8 (H, W), shows at least a part of; None if there is none."""
        view = view_of(luma, {_SIDE: _FEATURES})
        if view.digest in self._digests:
            return self._digests[view.digest]
        found = [(likeness(self._pictures[owner], view.picture, laid), owner) for owner, laid in self._placed(view)]
        score, owner = max(found)
        return self.names[owner] if score >= _ALIKE else None

    def _placed(self, view: View) -> Iterator[tuple[int, np.ndarray]]:
        """Candidates, and how each one's picture lies over the view's: an affine map (2, 3)."""
        height, width = view.picture.shape
        nearest = int((self._small @ _small(view.picture)).argmax())
        rows, columns = self._pictures[nearest].shape
        yield nearest, np.array([[width / columns, 0.0, 0.0], [0.0, height / rows, 0.0]])

        queries, targets = self._matches(view.descriptors)
        pairs = np.unique(np.stack([queries, self._owners[targets]]), axis=1)
        votes = np.bincount(pairs[1], minlength=len(self.names))
        for owner in np.argsort(-votes, kind="stable")[:_CANDIDATES]:
            if votes[owner] < _VOTES:
                return
            mine = self._owners[targets] == owner
            cv2.setRNGSeed(0)
            laid, inliers = cv2.estimateAffinePartial2D(
                self._points[targets[mine]], view.points[queries[mine]], ransacReprojThreshold=_REPROJECTION
            )
            if laid is not None and inliers.sum() >= _VOTES:
                yield int(owner), laid

    def _matches(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of features of the view and of the guarded images that are near each other, two arrays (M,)."""
        words = descriptors.view(np.uint16).astype(np.int64)
        tables = np.arange(_WORDS)
        first, last = self._begins[tables, words], self._begins[tables, words + 1]
        last = np.where(last - first > _CROWD, first, last)
        return _near(descriptors.view(np.uint64), self._descriptors.view(np.uint64), self._order, first, last)


@njit(nogil=True, cache=True)
def _near(
    descriptors: np.ndarray, known: np.ndarray, order: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the known features at `first` to `last` (N, tables) in `order` (tables, K), those near each of N descriptors.

    Descriptors are uint64 (·, 4). A feature that several tables name is there several times.
    """
    queries = np.empty((last - first).sum(), np.int32)
    targets = np.empty_like(queries)
    count = 0
    for query in range(len(descriptors)):
        for table in range(len(order)):
            for place in range(first[query, table], last[query, table]):
                target = order[table, place]
                different = 0
                for part in range(4):
                    different += _ones(descriptors[query, part] ^ known[target, part])
                if different <= _NEAR:
                    queries[count], targets[count] = query, target
                    count += 1
    return queries[:count], targets[:count]


@njit(nogil=True, cache=True)
def _ones(bits: np.uint64) -> int:
    """How many bits are set (Warren, Hacker's Delight, figure 5-2): LLVM makes one instruction of it."""
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


def load_guard(address: str) -> Guard:
    """The guard of the images at `address` (as `list_sources` takes it), described by Ray tasks.

    Raises UserError if there are none or too many, or one cannot be read: it would not be guarded.
    """
    sources = list_sources(address, "", MAX_GUARDED + 1)
    if len(sources) > MAX_GUARDED:
        raise UserError(f"guard {address}: more than {MAX_GUARDED} images; name the test images alone")
    results = cluster.each_row(_describe, [{"source": source} for source in sources], cpus=1)
    views = {result["name"]: result["view"] for result in results}
    names = sorted(views)  # not the order in which tasks are finished
    return Guard(names, [views[name] for name in names])


def view_of(luma: np.ndarray, sides: dict[int, int]) -> View:
    """The view of `luma`, uint8 (H, W). `sides`: how many features at which lengths of the longer side, in pixels."""
    points, descriptors = [np.zeros((0, 2), np.float32)], [np.zeros((0, 32), np.uint8)]
    for side, count in sides.items():
        found, described = cv2.ORB_create(nfeatures=count, fastThreshold=7).detectAndCompute(_scaled(luma, side), None)
        if found:
            points.append(cv2.KeyPoint_convert(found) * np.float32(_PICTURE / side))
            descriptors.append(described)
    digest = hashlib.blake2b(np.ascontiguousarray(luma), digest_size=16).digest()
    return View(digest, _scaled(luma, _PICTURE), np.concatenate(points), np.concatenate(descriptors))


def guarded_view(luma: np.ndarray) -> View:
    """The view of an image that is guarded: with more features than that of one that is looked for."""
    return view_of(luma, _GUARDED_SIDES)


def likeness(guarded: np.ndarray, picture: np.ndarray, laid: np.ndarray) -> float:
    """Normalised cross-correlation, -1..1, of two pictures' fine structure where `laid`, affine (2, 3), has them meet.

    0 if they meet on too small a part of `picture`.
    """
    size = picture.shape[::-1]
    inside = cv2.warpAffine(np.ones_like(guarded), laid, size, flags=cv2.INTER_NEAREST)
    inside = cv2.erode(inside, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if inside.mean() < _OVERLAP:
        return 0.0
    one, other = (_fine(image)[inside] for image in (cv2.warpAffine(guarded, laid, size), picture))
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / max(1e-6, np.sqrt((one @ one) * (other @ other))))


def _describe(row: dict[str, Source]) -> dict[str, str | View]:
    source = row["source"]
    cv2.setNumThreads(1)
    try:
        return {"name": source.name, "view": guarded_view(luma_of(read_image(source.read())))}
    except (ImageError, OSError, LookupError) as error:
        raise UserError(f"guard image {source.location} cannot be read, so not be guarded: {error}") from error


def _scaled(luma: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(luma.shape)
    size = [max(1, round(length * factor)) for length in reversed(luma.shape)]
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _small(picture: np.ndarray) -> np.ndarray:
    """The picture as a unit vector: products are correlations."""
    small = cv2.resize(picture, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / max(1e-6, float(np.linalg.norm(small)))


def _fine(picture: np.ndarray) -> np.ndarray:
    """The structure of one to some eight pixels: without the noise of compression, and without light and shade."""
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.0)
    return soft - cv2.GaussianBlur(soft, (0, 0), 8.0)
