"""Whether two images show the same scene, whatever degraded one of them: by the correlation of their fine structure.

Measured by `tests/benchmarks/scenes.py`; figures are in docs/degradations.md.
"""

import cv2
import numpy as np

_SIDE = 256  # pixels of the longer side of the largest picture that is compared
_LEVELS = 3  # each half as large as the one before: blur and turns leave the structure of the small ones
_BAND = 0.7, 4.0  # pixels, standard deviations: finer is noise, coarser is light and shade
_BORDER = 4  # pixels: frames and black edges are alike in pictures of anything
_SMALLEST = 14  # pixels of a side
# The highest correlation at a small displacement, in standard deviations of the correlation at all displacements. Other
# photographs reach 5 in 1 of 1000 comparisons, 1 of 100 where displacements up to an eighth are sought.
_SAME = 5.0
_CONTRAST = 4.0  # of 255, standard deviation of a picture: what is fainter drowns in noise


def structure_of(luma: np.ndarray) -> list[np.ndarray]:
    """What is compared of an image, uint8 (H, W): band-passed, float32, at each size that it is large enough for."""
    factor = min(1.0, _SIDE / max(luma.shape))
    size = [max(1, round(side * factor)) for side in reversed(luma.shape)]
    picture = cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    structure = []
    for _ in range(_LEVELS):
        fine, coarse = (cv2.GaussianBlur(picture, (0, 0), deviation) for deviation in _BAND)
        border = min(_BORDER, min(picture.shape) // 16)
        inner = (fine - coarse)[border : picture.shape[0] - border, border : picture.shape[1] - border]
        if min(inner.shape) < _SMALLEST:
            break
        structure.append(inner - inner.mean())
        picture = cv2.resize(picture, [side // 2 for side in reversed(picture.shape)], interpolation=cv2.INTER_AREA)
    return structure


def shows_another(image: list[np.ndarray], other: list[np.ndarray], *, reach: float, kept: float) -> bool:
    """Whether it is certain that `other` does not show what `image` shows: the structures of images of one size.

    By cross-correlation at each size: one scene has a peak near the middle. `reach`: the displacement that is allowed,
    as a share of the longer side; at least 2 pixels of a picture. `kept`: of the peak that `image` has with itself, the
    share (0..1) that its degraded image has at least. Where so much of it would be no peak, nothing is certain, and
    False is returned: flat or faint images, few details, repeated ones, small sizes.
    """
    certain = False
    for one, two in zip(image, other, strict=True):
        spectrum, others = np.fft.rfft2(one), np.fft.rfft2(two)
        near = max(2, round(reach * max(one.shape)))
        if _peak(spectrum * others.conj(), one.shape, near) >= _SAME:
            return False
        certain |= one.std() >= _CONTRAST and kept * _peak(np.abs(spectrum) ** 2, one.shape, 0) >= _SAME
    return bool(certain)


def _peak(spectrum: np.ndarray, shape: tuple[int, int], reach: int) -> float:
    """The largest value of a correlation at displacements up to `reach` pixels, in its standard deviations."""
    surface = np.fft.irfft2(spectrum, s=shape)
    down, right = (min(reach, side // 8) for side in shape)
    near = np.roll(surface, (down, right), (0, 1))[: 2 * down + 1, : 2 * right + 1]
    return float(near.max()) / max(1e-6, float(surface.std()))
