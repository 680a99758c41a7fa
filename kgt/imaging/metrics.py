"""PSNR and SSIM by the protocols of the literature."""

import math
from typing import Literal

import numpy as np

from kgt.imaging.colour import rgb_to_y
from kgt.tasks import Protocol

HIGHEST_PSNR = 100.0
"""dB that an image counts with in a mean whose PSNR is above, or infinite: means stay finite."""

_PEAK = 255.0
_RADIUS = 5  # an 11 × 11 window
_OFFSETS = np.arange(-_RADIUS, _RADIUS + 1)
_GAUSSIAN = np.exp(-(_OFFSETS**2) / (2 * 1.5**2))
_GAUSSIAN /= _GAUSSIAN.sum()


def psnr(a: np.ndarray, b: np.ndarray, *, space: Literal["rgb", "y"] = "rgb", border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB of two images of range 0..255; infinite where they are equal.

    `space="y"` compares MATLAB's unrounded luma (its peak still 255, as published); `border` pixels are cut off first.
    Raises ValueError if the shapes differ or nothing is left.
    """
    a, b = _prepare(a, b, space, border)
    error = np.mean(np.square(a - b))
    return math.inf if error == 0 else 10 * math.log10(_PEAK**2 / error)


def ssim(a: np.ndarray, b: np.ndarray, *, space: Literal["rgb", "y"] = "rgb", border: int = 0) -> float:
    """Structural similarity (Wang et al. 2004) of two images of range 0..255.

    11×11 Gaussian of σ 1.5, K₁ 0.01, K₂ 0.03, the valid region only, each channel alone and then averaged.
    Raises ValueError if the shapes differ or a side is shorter than the window.
    """
    a, b = _prepare(a, b, space, border)
    if min(a.shape[:2]) < _OFFSETS.size:
        raise ValueError(f"SSIM needs at least {_OFFSETS.size} pixels a side, not {a.shape[1]}x{a.shape[0]}")
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    means = mean_a * mean_b
    squares = np.square(mean_a) + np.square(mean_b)
    covariance = _blur(a * b) - means
    variances = _blur(np.square(a) + np.square(b)) - squares
    return float(np.mean((2 * means + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))))


def score(restored: np.ndarray, clean: np.ndarray, protocol: Protocol, scale: int = 1) -> tuple[float, float]:
    """PSNR and SSIM of a restored image as `protocol` has them; `scale` is that of super-resolution."""
    border = scale if protocol.border == "scale" else protocol.border
    return (
        psnr(restored, clean, space=protocol.space, border=border),
        ssim(restored, clean, space=protocol.space, border=border),
    )


def _prepare(a: np.ndarray, b: np.ndarray, space: str, border: int) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise ValueError(f"images of different shapes cannot be compared: {a.shape} and {b.shape}")
    if min(a.shape[:2]) <= 2 * border:
        raise ValueError(f"a border of {border} leaves nothing of an image of {a.shape[1]}x{a.shape[0]}")
    inside = np.s_[border : a.shape[0] - border, border : a.shape[1] - border]
    if space == "y":
        return rgb_to_y(a[inside]), rgb_to_y(b[inside])
    return a[inside].astype(np.float64), b[inside].astype(np.float64)


def _blur(image: np.ndarray) -> np.ndarray:
    """Gaussian-weighted means over all windows that lie inside: (H, W[, C]) → (H − 10, W − 10[, C])."""
    return _blur_axis(_blur_axis(image, 0), 1)


def _blur_axis(image: np.ndarray, axis: int) -> np.ndarray:
    length = image.shape[axis] - 2 * _RADIUS

    def shifted(offset: int) -> np.ndarray:
        return image[(slice(None),) * axis + (slice(_RADIUS + offset, _RADIUS + offset + length),)]

    total = shifted(0) * _GAUSSIAN[_RADIUS]
    for offset in range(1, _RADIUS + 1):
        pair = shifted(-offset) + shifted(offset)
        pair *= _GAUSSIAN[_RADIUS + offset]
        total += pair
    return total
