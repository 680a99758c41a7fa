"""Rain streaks: drops that fall through the exposure, in three layers from near (long, wide, few) to far. float32."""

import math

import cv2
import numpy as np

# Length and width in pixels at 720 px width, streaks a pixel there, brightness: near, middle, far.
_LAYERS = ((70, 1.6, 0.003, 1.0), (42, 1.2, 0.015, 0.7), (24, 0.9, 0.08, 0.5))
_JITTER = 3.0  # degrees at most about the common wind
_SPEED = (0.7, 1.3)  # a faster drop's streak is as much longer, and as much fainter


def streaks(rng: np.random.Generator, shape: tuple[int, int], angle: float, unit: float) -> np.ndarray:
    """The three layers' sum: (H, W) ≥ 0, of standard deviation 1 over many. `unit` is the pixel of 720 px width.

    `angle` of the fall in degrees from the vertical, below 85.
    """
    if abs(angle) > 45:  # lines are drawn row by row: the flat ones in the transposed image
        return streaks(rng, shape[::-1], math.copysign(90, angle) - angle, unit).T
    layers, variances = zip(*(_layer(rng, shape, angle, unit, *layer) for layer in _LAYERS), strict=True)
    return sum(layers) / np.float32(math.sqrt(sum(variances)) or 1)


def _layer(
    rng: np.random.Generator,
    shape: tuple[int, int],
    angle: float,
    unit: float,
    length: float,
    width: float,
    density: float,
    brightness: float,
) -> tuple[np.ndarray, float]:
    """One layer, and the variance to be expected of it: that of shot noise whose shots are the streaks (Campbell)."""
    sigma = max(width * unit, 0.7) / 2
    across = _across(sigma, angle)
    # Streaks that pixels widen are fewer and brighter: mean and variance are those of the layer at 720 px width.
    narrowed = unit * _across(width / 2, angle) / across
    steepest = math.radians(abs(angle) + _JITTER)
    reach = math.ceil(length * unit * _SPEED[1] / 2)
    aside = math.ceil(reach * math.tan(steepest)) + 1
    # Streaks are centred up to their reach beyond the image, on a canvas that holds all of each.
    height, columns = shape[0] + 4 * reach, shape[1] + 4 * aside
    centred = (height - 2 * reach) * (columns - 2 * aside)

    count = rng.poisson(density * narrowed / unit**2 * centred)
    row = rng.integers(reach, height - reach, size=count)
    column = rng.uniform(aside, columns - aside - 1, size=count).astype(np.float32)
    turn = np.radians(angle + rng.uniform(-_JITTER, _JITTER, size=count)).astype(np.float32)
    speed = rng.uniform(*_SPEED, size=count).astype(np.float32)
    light = brightness / narrowed * rng.uniform(0.3, 1, size=count).astype(np.float32) / speed
    half = np.maximum(length * unit / 2 * speed * np.cos(turn), 0.5)

    # Each row of a streak puts light into the two pixels beside it; toward its ends the streak fades.
    step = np.arange(-reach, reach + 1)
    weight = np.square(step.astype(np.float32) / half[:, None])
    weight = np.maximum(1 - np.square(weight), 0)
    weight *= (light / np.cos(turn))[:, None]
    place = column[:, None] + np.tan(turn)[:, None] * step.astype(np.float32)
    pixel = place.astype(np.int32)
    place -= pixel
    right = weight * place
    weight -= right
    pixel += (row[:, None] + step).astype(np.int32) * columns
    pixel, pixels = pixel.ravel(), height * columns
    canvas = np.bincount(pixel, weight.ravel(), pixels)
    canvas[1:] += np.bincount(pixel, right.ravel(), pixels)[:-1]

    canvas = canvas.reshape(height, columns)
    cut = math.ceil(4 * sigma)  # the blur's reach: no more is blurred than is kept
    up, left = (max(2 * side - cut, 0) for side in (reach, aside))
    canvas = canvas[up : height - up, left : columns - left].astype(np.float32)
    canvas = cv2.GaussianBlur(canvas, (0, 0), sigma)
    down, right = 2 * reach - up, 2 * aside - left
    # ∫ over a streak of its square; 32/45: the mean of (1 − x⁴)².
    energy = 32 / 45 * length * unit * float(np.sum(light**2 * speed)) / across
    return canvas[down:-down, right:-right], energy / centred


def _across(sigma: float, angle: float) -> float:
    """1 / ∫ of the square of a streak's profile, in pixels; 1/6: the variance of sharing between two pixels."""
    return 2 * math.sqrt(math.pi * (sigma**2 + math.cos(math.radians(angle)) ** 2 / 6))
