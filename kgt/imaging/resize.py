"""MATLAB's `imresize` (bicubic, antialiased), the operator by which super-resolution's test images are made."""

import math
from functools import lru_cache

import numpy as np


def imresize(image: np.ndarray, scale: float) -> np.ndarray:
    """`imresize(image, scale, "bicubic")` of MATLAB: (H, W[, C]) → (⌈H·scale⌉, ⌈W·scale⌉[, C]).

    uint8 stays uint8, rounded and clipped at the end; floats keep their type and are not clipped.
    """
    if image.dtype == np.uint8:
        # In double: halves are frequent, and must all round up.
        return np.floor(imresize(image.astype(np.float64), scale) + 0.5).clip(0, 255).astype(np.uint8)
    return _resize_axis(_resize_axis(image, scale, 0), scale, 1)


def crop_to_multiple(image: np.ndarray, n: int) -> np.ndarray:
    """The largest top-left part whose sides are multiples of `n`. Raises ValueError if that is empty."""
    height, width = (side - side % n for side in image.shape[:2])
    if not height or not width:
        raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} has no part with sides of a multiple of {n}")
    return image[:height, :width]


def _resize_axis(image: np.ndarray, scale: float, axis: int) -> np.ndarray:
    weights, sources = _taps(image.shape[axis], scale)
    broadcast = [1] * image.ndim
    broadcast[axis] = -1
    total = None
    for weight, source in zip(weights.astype(image.dtype), sources, strict=True):
        part = image.take(source, axis=axis)
        part *= weight.reshape(broadcast)
        total = part if total is None else np.add(total, part, out=total)
    return total


@lru_cache(maxsize=64)
def _taps(size: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """For every tap and output pixel its weight and source pixel: two arrays (taps, ⌈size·scale⌉)."""
    out_size = math.ceil(size * scale)
    stretch = min(scale, 1.0)  # shrinking widens the kernel: that is the antialiasing
    width = 4 / stretch
    centre = (np.arange(out_size) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2)
    source = first + np.arange(math.ceil(width) + 2)[:, None]
    weight = _cubic((centre - source) * stretch)
    weight /= weight.sum(axis=0)
    used = weight.any(axis=1)
    mirrored = source[used].astype(np.intp) % (2 * size)
    return weight[used], np.minimum(mirrored, 2 * size - 1 - mirrored)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = −1/2 (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
