"""What the three weathers share: smooth random fields, seeds and motion blur. All arrays float32."""

import math

import cv2
import numpy as np


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Noise without detail finer than about `cell` pixels: (H, W) of mean 0 and standard deviation near 1."""
    rows, columns = (math.ceil(side / cell) + 3 for side in shape)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return 1.5 * cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def seeds(rng: np.random.Generator, shape: tuple[int, int], density: float) -> np.ndarray:
    """Single bright pixels at random places, `density` of them a pixel, each of a brightness in 0.3–1: (H, W)."""
    out = np.zeros(shape, np.float32)
    count = rng.poisson(density * shape[0] * shape[1])
    rows, columns = rng.integers(shape[0], size=count), rng.integers(shape[1], size=count)
    out[rows, columns] = rng.uniform(0.3, 1, size=count)
    return out


def streak_kernel(length: float, width: float, angle: float) -> np.ndarray:
    """A soft line segment of peak 1, `angle` degrees from the vertical, for `cv2.filter2D`: (n, n), n odd.

    Gaussian across, of standard deviation `width` / 2; along, constant with soft ends.
    """
    radius = math.ceil(length / 2 + 2 * width)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    along, across = rows * cosine + columns * sine, columns * cosine - rows * sine
    beyond = np.maximum(np.abs(along) - length / 2, 0)
    return np.exp(-(across**2 + beyond**2) / (2 * (width / 2) ** 2))


def guided(field: np.ndarray, guide: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """`field` smoothed so that it follows the guide's edges (He, Sun & Tang 2010, eqs. 4–6): (H, W)."""
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, size, borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_field = mean(guide), mean(field)
    slope = (mean(guide * field) - mean_guide * mean_field) / (mean(guide * guide) - mean_guide**2 + epsilon)
    return mean(slope) * guide + mean(mean_field - slope * mean_guide)
