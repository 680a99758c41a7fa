"""Falling snow (after DesnowNet, Liu et al. 2018): I = K ⊙ (1 − z) + C ⊙ z, in encoded values.

K is the scene under a mild veil, z the flakes' coverage, C their near-white colour.
"""

import math

import cv2
import numpy as np

from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar
from pipelines.degradations.weather.depth import plausible_depth
from pipelines.degradations.weather.rain import veil

# Diameters in pixels at 640 px width, the share of the coverage, defocus (σ) and motion in diameters.
_SIZES = (((1, 3), 0.3, 0.15, 2.5), ((3, 8), 0.4, 0.15, 2.0), ((8, 20), 0.3, 0.2, 1.0))
_VEIL = 0.2  # of the rain's β
_CORNERS = 9  # of a flake's outline, each at its own distance from the centre, in radii:
_OUTLINE = (0.45, 1.25)


def render(image: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar], frame: Frame) -> np.ndarray:
    """`image` float32 (H, W, 3), encoded, 1.0 = white, to the same in the snow."""
    white = np.float32(rng.uniform(0.85, 1.0)) * np.array([0.98, 0.99, 1.0], np.float32)
    scene = veil(image, plausible_depth(image, rng, frame), _VEIL * parameters["fog"], 0.75)
    cover = flakes(rng, image.shape[:2], parameters["flakes"], parameters["angle"], frame.unit(640, 480))[..., None]
    return scene + cover * (white - scene)


def flakes(rng: np.random.Generator, shape: tuple[int, int], share: float, angle: float, unit: float) -> np.ndarray:
    """The flakes' opacity: (H, W) in 0–1, `share` of it covered. `unit` is the pixel of 640 px width."""
    reach = math.ceil(40 * unit)
    canvas = (shape[0] + 2 * reach, shape[1] + 2 * reach)
    clear = np.ones(canvas, np.float32)
    for (low, high), part, defocus, motion in _SIZES:
        size = (low + high) / 2 * unit
        count = rng.poisson(part * share * canvas[0] * canvas[1] / (math.pi / 4 * size**2))
        layer = _shapes(rng, canvas, count, low * unit, high * unit)
        layer = cv2.GaussianBlur(layer, (0, 0), max(defocus * size * rng.uniform(0.5, 1.5), 0.4))
        path = _path(motion * size * rng.uniform(0.2, 1), angle + rng.uniform(-10, 10))
        clear *= 1 - np.clip(cv2.filter2D(layer, -1, path), 0, 1)
    return 1 - clear[reach:-reach, reach:-reach]


def _path(length: float, angle: float) -> np.ndarray:
    """The kernel of a motion by `length` pixels, `angle` degrees from the vertical: (n, n), n odd, of sum 1."""
    radius = math.ceil(length / 2) + 1
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    along, across = np.abs(rows * cosine + columns * sine), np.abs(columns * cosine - rows * sine)
    kernel = np.clip(length / 2 + 0.5 - along, 0, 1) * np.maximum(1 - across, 0)
    return kernel / kernel.sum()


def _shapes(rng: np.random.Generator, canvas: tuple[int, int], count: int, low: float, high: float) -> np.ndarray:
    """`count` irregular flakes with diameters from `low` to `high` pixels, small ones the likelier: (H, W) in 0–1."""
    fraction_bits = 4
    diameter = low * (high / low) ** (rng.random((count, 1)) ** 1.5)
    turn = rng.uniform(0, 2 * math.pi, size=(count, 1)) + np.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    radius = diameter / 2 * rng.uniform(*_OUTLINE, size=(count, _CORNERS))
    squeeze = rng.uniform(0.6, 1.0, size=(count, 1))
    rows = rng.uniform(0, canvas[0], size=(count, 1)) + squeeze * radius * np.sin(turn)
    columns = rng.uniform(0, canvas[1], size=(count, 1)) + radius * np.cos(turn)
    outlines = np.rint(np.stack([columns, rows], axis=2) * 2**fraction_bits).astype(np.int32)
    opacity = 255 * rng.uniform(0.4, 1.0, size=count)
    mask = np.zeros(canvas, np.uint8)
    for outline, value in zip(outlines, opacity.tolist(), strict=True):
        cv2.fillPoly(mask, [outline], value, lineType=cv2.LINE_AA, shift=fraction_bits)
    return mask.astype(np.float32) / np.float32(255)
