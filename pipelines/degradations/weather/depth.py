"""A plausible depth for a photograph that has none: what fog follows. All arrays float32."""

import math

import cv2
import numpy as np

from pipelines.degradations.frame import Frame

# Of the farthest depth. With β = 2.3 they give the published pairs' transmissions within a picture, 0.65 to 0.10.
NEAREST, FARTHEST = 0.19, 1.0


def plausible_depth(image: np.ndarray, rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """The relative depth of `image` (H, W, 3), encoded, 1.0 = white: (H, W) in NEAREST–FARTHEST.

    A ground plane that rises to a random horizon, and smooth variation that follows the image's edges.
    """
    height, width = image.shape[:2]
    horizon = rng.uniform(0.1, 0.5) * frame.frame_height
    rows = frame.frame_top + np.arange(height, dtype=np.float32)
    below = np.clip((rows - horizon) / (frame.frame_height - horizon), 0, 1)
    plane = 1 / (1 + np.float32(rng.uniform(1.5, 4)) * below)
    unit = frame.unit(720, 480)
    uneven = plane[:, None] * (1 + np.float32(0.2) * smooth_noise(rng, (height, width), 120 * unit))
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.clip(_guided(uneven, gray, max(1, round(16 * unit)), 1e-2), NEAREST, FARTHEST)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Stationary noise without detail finer than about `cell` pixels: (H, W) of mean 0 and standard deviation 1.

    A cubic B-spline surface whose control points are white noise, `cell` apart, on a grid of random phase.
    """
    rows, columns = (_spline(side, cell, float(rng.random())) for side in shape)
    control = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    # The B-spline's square integrates to 151/315. Not `@`: BLAS would wake its threads for this.
    return np.einsum("hn,nw->hw", rows, np.einsum("nm,wm->nw", control, columns)) * np.float32(315 / 151)


def _spline(length: int, cell: float, phase: float) -> np.ndarray:
    """The cubic B-splines' values at `length` pixels: (length, control points), each row summing to 1."""
    place = np.arange(length, dtype=np.float32) / np.float32(cell) + np.float32(phase)
    distance = np.abs(place[:, None] - np.arange(-1, math.floor(place[-1]) + 3, dtype=np.float32))
    return np.where(distance < 1, 2 / 3 - distance**2 * (1 - distance / 2), np.maximum(2 - distance, 0) ** 3 / 6)


def _guided(field: np.ndarray, guide: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """`field` smoothed so that it follows the guide's edges (He, Sun & Tang 2010, eqs. 4–6): (H, W)."""
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, size, borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_field = mean(guide), mean(field)
    slope = (mean(guide * field) - mean_guide * mean_field) / (mean(guide * guide) - mean_guide**2 + epsilon)
    return mean(slope) * guide + mean(mean_field - slope * mean_guide)
