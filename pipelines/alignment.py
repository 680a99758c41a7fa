"""Whether the files of a ready pair, or of a window of frames, fit: in size, in what they show, and in place."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from kgt.imaging.files import MAX_PIXELS
from pipelines.detail import luma_of
from pipelines.scenes import shows_another, structure_of

_SIDE = 512  # pixels: the middle of larger images is enough
_REACH = 32  # pixels of shift that are looked for
_BAND = 0.2  # cycles/pixel, standard deviation: finer structure is mostly noise
_PEAK = 10.0  # standard deviations: noise has 5; photographs in rain, snow, noise and JPEG 70 and more
# The second peak against the first. Shifted pairs: 0.22 at most at a noise of σ 50, JPEG quality 10, rain and snow.
# Motion blur has no one shift: 0.30 at least where its peak is not at zero, GoPro's photographs 0.8.
_ALONE = 0.25
# Where a camera rests off the middle of its path, the blurred image is displaced: 1 of 100 of ours, by 2 pixels.
_ALLOWED = {"deblur": 3}
# Of the correlation of a clean image with itself, what the degraded one keeps at least: thick fog, drops, strong blur.
_KEPT = {"sr": 0.6}
_KEPT_AT_LEAST = 0.3
_MOTION = 1 / 8  # of the longer side, between neighbouring frames


@dataclass(frozen=True)
class PairCheck:
    """What the survey asks of a pair: that sizes and channels are those of `task`, that nothing is shifted, and that
    the degraded image shows what the clean one shows.

    `scales`: how many times larger the clean image may be, for sr. Pairs of different photographs are found where the
    clean one has structure enough (see `scenes.shows_another`): flat ones pass, and many of less than some 128 pixels.
    Images that have been mirrored, turned or inverted show something else. Figures: `tests/benchmarks/scenes.py`.
    """

    task: str
    scales: tuple[int, ...] = (1,)

    def __call__(self, clean: np.ndarray, others: Sequence[np.ndarray]) -> tuple[str, str] | None:
        """A word for statistics and a line for people if `others`, the degraded image alone, is none of `clean`."""
        (degraded,) = others
        scale = clean.shape[0] // degraded.shape[0]
        sizes = f"degraded {_size(degraded)}, clean {_size(clean)}"
        if scale not in self.scales or clean.shape[:2] != tuple(scale * side for side in degraded.shape[:2]):
            wanted = " or ".join(f"{scale}:1" for scale in self.scales)
            return "size-mismatch", f"{sizes}, {wanted} is wanted" if self.task == "sr" else sizes
        if self.task == "demosaic" and (degraded.ndim, clean.ndim) != (2, 3):
            return "channels-mismatch", "a mosaic is gray, its clean image in colour"
        small = luma_of(clean)
        if scale > 1:
            small = cv2.resize(small, degraded.shape[1::-1], interpolation=cv2.INTER_AREA)
        bad = luma_of(degraded)
        shift = shift_of(small, bad)
        if shift and max(map(abs, shift)) > _ALLOWED.get(self.task, 1):
            return "misaligned", f"the degraded image is {shift[0]} pixels further down, {shift[1]} further right"
        kept = _KEPT.get(self.task, _KEPT_AT_LEAST)
        if shows_another(structure_of(small), structure_of(bad), reach=0, kept=kept):
            return "another-image", "the degraded image does not show what the clean one shows"
        return None


def check_frames(middle: np.ndarray, others: Sequence[np.ndarray]) -> tuple[str, str] | None:
    """What the survey asks of a window of a video: frames of one size, as many channels and one scene; not too large.

    A cut is found as another image of a pair is. Between neighbouring frames things may move by an eighth of the
    picture, turned by 3 degrees and 5 % larger; faster motion is taken for a cut.
    """
    for other in others:
        if other.shape != middle.shape:
            return "size-mismatch", f"a frame of {_size(other)} among {_size(middle)}"
    frames = [*others[: len(others) // 2], middle, *others[len(others) // 2 :]]
    if (pixels := len(frames) * middle.shape[0] * middle.shape[1]) > MAX_PIXELS:
        return (
            "too-large",
            f"{len(frames)} frames of {_size(middle)} have {pixels} pixels, {MAX_PIXELS} at most are read",
        )
    structures = [structure_of(luma_of(frame)) for frame in frames]
    for number, neighbours in enumerate(itertools.pairwise(structures), start=1):
        if any(shows_another(*two, reach=_MOTION, kept=_KEPT_AT_LEAST) for two in itertools.permutations(neighbours)):
            return "scene-cut", f"frames {number} and {number + 1} of {len(frames)} do not show the same scene"
    return None


def shift_of(clean: np.ndarray, degraded: np.ndarray) -> tuple[int, int] | None:
    """How far all of `degraded` is displaced, in pixels (down, right), if that is certain and more than a pixel.

    Both are luma, uint8 (H, W), of one size. By phase correlation (Kuglin & Hines 1975) of their middle: a single sharp
    peak is a shift. Shifts up to 32 pixels (a quarter of small images) are seen. None also where nothing can be said:
    too little structure, periodic structure, or a blur of more than some three pixels, which has no one displacement.
    """
    height, width = (min(side, _SIDE) for side in clean.shape)
    top, left = (clean.shape[0] - height) // 2, (clean.shape[1] - width) // 2
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    spectra = []
    for image in (clean, degraded):
        middle = image[top : top + height, left : left + width].astype(np.float32)
        spectra.append(np.fft.rfft2((middle - middle.mean()) * window))
    cross = spectra[0].conj() * spectra[1]
    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    band = np.exp(-(down**2 + right**2) / (2 * _BAND**2))
    surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-6) * band, s=(height, width))

    reach = min(_REACH, min(height, width) // 4)
    near = np.roll(surface, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    row, column = (int(index) for index in np.unravel_index(near.argmax(), near.shape))
    peak = float(near[row, column])
    rows, columns = np.ogrid[: near.shape[0], : near.shape[1]]
    second = float(near[(rows - row) ** 2 + (columns - column) ** 2 >= 9].max())
    shift = row - reach, column - reach
    certain = peak > _PEAK * float(surface.std()) and second < _ALONE * peak
    return shift if certain and max(map(abs, shift)) >= 2 else None


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]} {'gray' if image.ndim == 2 else 'RGB'}"
