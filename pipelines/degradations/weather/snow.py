"""Falling snow (after DesnowNet, Liu et al. 2018): I = K ⊙ (1 − z) + C ⊙ z, in encoded values.

K is the scene under a mild veil, z the flakes' coverage, C their near-white colour.
"""

import math

import cv2
import numpy as np

from pipelines.degradations.frame import WHOLE, Frame
from pipelines.degradations.values import Scalar
from pipelines.degradations.weather.depth import REACH, plausible_depth
from pipelines.degradations.weather.rain import veil

# Diameters in pixels at 640 px width, the share of the coverage, defocus (σ) and motion in diameters.
_SIZES = (((1, 3), 0.3, 0.15, 2.5), ((3, 8), 0.4, 0.15, 2.0), ((8, 20), 0.3, 0.2, 1.0))
_VEIL, _AIRLIGHT = 0.2, 0.75  # of the rain's β; the veil's gray level
_CORNERS = 9  # of a flake's outline, each at its own distance from the centre, in radii:
_OUTLINE = (0.45, 1.25)
_SQUEEZE = (0.6, 1.0)
_OPACITY = (0.4, 1.0)


def reach(parameters: dict[str, Scalar]) -> float:
    """Surroundings that the result depends on, in pixels at 720 px width: the depth's."""
    return REACH


def render(
    clean: np.ndarray,
    rng: np.random.Generator,
    parameters: dict[str, Scalar],
    frame: Frame,
    inside: tuple[slice, slice] = WHOLE,
) -> np.ndarray:
    """`clean` uint8 (H, W, 3), its part `inside` in the snow: float32, encoded, 1.0 = white."""
    image = clean.astype(np.float32) / np.float32(255)
    depth = plausible_depth(image, rng, frame, parameters["horizon"], parameters["slope"])[inside]
    scene = veil(image[inside], depth, _VEIL * parameters["fog"], _AIRLIGHT)
    cover = flakes(rng, scene.shape[:2], parameters["flakes"], parameters["angle"], frame.unit(640, 480))[..., None]
    white = np.float32(parameters["white"]) * np.array([0.98, 0.99, 1.0], np.float32)
    return scene + cover * (white - scene)


def flakes(rng: np.random.Generator, shape: tuple[int, int], share: float, angle: float, unit: float) -> np.ndarray:
    """The flakes' opacity: (H, W) in 0–1, of mean `share` over many. `unit` is the pixel of 640 px width.

    Flakes that lie independently let exp(−density × opacity × area) through: each size has a part of −ln(1 − share).
    """
    clear = np.ones(shape, np.float32)
    for diameters, part, defocus, motion in _SIZES:
        low, high = (diameter * unit for diameter in diameters)
        size = (low + high) / 2
        blur = max(defocus * size * rng.uniform(0.5, 1.5), 0.4)
        path = motion * size * rng.uniform(0.2, 1), angle + rng.uniform(-10, 10)
        clear *= 1 - _layer(rng, shape, -part * math.log1p(-share), (low, high), blur, *path)
    return 1 - clear


def _layer(
    rng: np.random.Generator,
    shape: tuple[int, int],
    depth: float,
    diameters: tuple[float, float],
    blur: float,
    length: float,
    angle: float,
) -> np.ndarray:
    """Flakes of one size, of optical depth `depth`, blurred by σ `blur` pixels and along a path of `length` pixels."""
    step = max(1.0, blur / 2)  # pixels half as coarse as the defocus show all there is
    low, high, blur, length = (pixels / step for pixels in (*diameters, blur, length))
    reach = math.ceil(high / 2 * _OUTLINE[1] + 3 * blur + length / 2) + 1
    canvas = tuple(math.ceil(side / step) + 2 * reach for side in shape)
    clear = _shapes(rng, canvas, depth, low, high)
    opaque = cv2.filter2D(cv2.GaussianBlur(1 - clear, (0, 0), blur), -1, _path(length, angle))
    opaque = opaque[reach:-reach, reach:-reach]
    return cv2.resize(opaque, shape[::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)


def _path(length: float, angle: float) -> np.ndarray:
    """The kernel of a motion by `length` pixels, `angle` degrees from the vertical: (n, n), n odd, of sum 1."""
    radius = math.ceil(length / 2) + 1
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    along, across = np.abs(rows * cosine + columns * sine), np.abs(columns * cosine - rows * sine)
    kernel = np.clip(length / 2 + 0.5 - along, 0, 1) * np.maximum(1 - across, 0)
    return kernel / kernel.sum()


def _shapes(rng: np.random.Generator, canvas: tuple[int, int], depth: float, low: float, high: float) -> np.ndarray:
    """What irregular flakes of `low` to `high` pixels in diameter, small ones the likelier, let through: (H, W)."""
    from pipelines.degradations.weather import outlines

    count = rng.poisson(depth * canvas[0] * canvas[1] / _mean_cover(low, high))
    radii = _diameters(rng.random((count, 1)), low, high) / 2 * rng.uniform(*_OUTLINE, size=(count, _CORNERS))
    places = rng.uniform(0, canvas, size=(count, 2)) - 0.5
    squeezes, opacities = rng.uniform(*_SQUEEZE, size=count), rng.uniform(*_OPACITY, size=count)
    return outlines.let_through(canvas, places, radii, squeezes, opacities)


def _diameters(quantiles: np.ndarray, low: float, high: float) -> np.ndarray:
    return low * (high / low) ** (quantiles**1.5)


def _mean_cover(low: float, high: float) -> float:
    """A flake's opacity × area to be expected: that of a triangle between two corners, _CORNERS times."""
    square = np.mean(np.square(_diameters((np.arange(1000) + 0.5) / 1000, low, high) / 2 * np.mean(_OUTLINE)))
    corners = _CORNERS / 2 * math.sin(2 * math.pi / _CORNERS)
    return float(square * corners * np.mean(_SQUEEZE) * np.mean(_OPACITY))
