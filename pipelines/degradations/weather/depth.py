"""A plausible depth for a photograph that has none: what fog follows. All arrays float32."""

import math

import cv2
import numpy as np

from pipelines.degradations.frame import Frame

# Of the farthest depth. With β = 2.3 they give the published pairs' transmissions within a picture, 0.65 to 0.10.
NEAREST, FARTHEST = 0.19, 1.0
_EDGE = 16  # the windows' radius in which depth follows the image's edges, pixels at 720 px width
REACH = 2 * _EDGE + 3  # what a pixel's depth depends on there: two means over windows, of coarse pixels


def plausible_depth(
    image: np.ndarray, rng: np.random.Generator, frame: Frame, horizon: float, slope: float
) -> np.ndarray:
    """The relative depth of `image` (H, W, 3), encoded, 1.0 = white: (H, W) in NEAREST–FARTHEST.

    A ground plane that rises to the `horizon`, in heights of the frame below its top, from 1 / (1 + `slope`) at its
    foot; and smooth variation that follows the image's edges.
    """
    height, width = image.shape[:2]
    unit = frame.unit(720, 480)
    radius = max(1, round(_EDGE * unit))
    step = max(1, radius // 16)  # the depth is smooth over `radius`: known at every so many pixels
    rows = frame.frame_top + step * (np.arange(-(-height // step), dtype=np.float32) + np.float32(0.5))
    below = np.clip((rows / frame.frame_height - horizon) / (1 - horizon), 0, 1)
    plane = 1 / (1 + np.float32(slope) * below)
    shape = len(rows), -(-width // step)
    uneven = plane[:, None] * (1 + np.float32(0.2) * smooth_noise(rng, shape, 120 * unit / step))
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.clip(_guided(uneven, gray, radius // step, 1e-2), NEAREST, FARTHEST)


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
    """`field` smoothed so that it follows the guide's edges (He, Sun & Tang 2010, eqs. 4–6): of the guide's shape.

    A `field` of coarser pixels than the guide is filtered there, its lines evaluated on the guide's (He & Sun 2015).
    `radius` in the field's pixels.
    """
    size = (2 * radius + 1, 2 * radius + 1)
    small = cv2.resize(guide, field.shape[::-1], interpolation=cv2.INTER_AREA)

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, size, borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_field = mean(small), mean(field)
    slope = (mean(small * field) - mean_guide * mean_field) / (mean(small * small) - mean_guide**2 + epsilon)
    lines = (mean(slope), mean(mean_field - slope * mean_guide))
    slope, offset = (cv2.resize(part, guide.shape[::-1], interpolation=cv2.INTER_LINEAR) for part in lines)
    return slope * guide + offset
