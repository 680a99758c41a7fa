"""Whether the files of a ready pair fit each other: in size, and that the degraded one is not shifted as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.detail import luma_of

_SIDE = 512  # pixels: the middle of larger images is enough
_REACH = 32  # pixels of shift that are looked for
_BAND = 0.2  # cycles/pixel, standard deviation: finer structure is mostly noise
_PEAK = 10.0  # standard deviations: noise has 5; photographs in rain, snow, noise and JPEG 70 and more
# The second peak against the first. Shifted pairs: 0.22 at most at a noise of σ 50, JPEG quality 10, rain and snow.
# Motion blur has no one shift: 0.30 at least where its peak is not at zero, GoPro's photographs 0.8.
_ALONE = 0.25
# Where a camera rests off the middle of its path, the blurred image is displaced: 1 of 100 of ours, by 2 pixels.
_ALLOWED = {"deblur": 3}


@dataclass(frozen=True)
class PairCheck:
    """What the survey asks of a pair: that sizes and channels are those of `task`, and that nothing is shifted.

    `scales`: how many times larger the clean image may be, for sr.
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
        shift = shift_of(small, luma_of(degraded))
        if shift and max(map(abs, shift)) > _ALLOWED.get(self.task, 1):
            return "misaligned", f"the degraded image is {shift[0]} pixels further down, {shift[1]} further right"
        return None


def check_frames(middle: np.ndarray, others: Sequence[np.ndarray]) -> tuple[str, str] | None:
    """What the survey asks of a window of a video: frames of one size and as many channels."""
    for other in others:
        if other.shape != middle.shape:
            return "size-mismatch", f"a frame of {_size(other)} among {_size(middle)}"
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
