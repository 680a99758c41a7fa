"""Raindrops on the lens or a window before it, in linear light.

Each drop is a smooth height field, a few merged spheres that sag. Its surface normal bends the view: a drop shows the
scene flipped, shrunk and out of focus, darker toward its rim, with a small highlight, behind a soft matte.
"""

import math

import cv2
import numpy as np

from kgt.imaging import linear_to_srgb, srgb_to_linear
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar

_RADII = (4.0, 60.0)  # pixels at 720 px width
_CONTACT = math.radians(50)  # between glass and drop, at the rim
_BEND = 4.0  # displacement of the view by a normal in the glass's plane, in radii: × sin(contact) > 1 flips it


def render(image: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar], frame: Frame) -> np.ndarray:
    """`image` float32 (H, W, 3), encoded, 1.0 = white, to the same behind drops."""
    height, width = image.shape[:2]
    unit = frame.unit(720, 480)
    expected = parameters["drops"] * height * width / (frame.frame_height * frame.frame_width)
    surface, radius = drops(rng, (height, width), rng.poisson(expected), unit)
    seen = refract(
        srgb_to_linear(image),
        surface,
        radius,
        defocus=max(parameters["defocus"] * unit, 0.5),
        sky=rng.uniform(0.05, 0.35),
        light=(rng.uniform(-0.6, -0.3), rng.uniform(-0.4, 0.4)),
    )
    return linear_to_srgb(seen)


def refract(
    scene: np.ndarray,
    surface: np.ndarray,
    radius: np.ndarray,
    *,
    defocus: float,
    sky: float,
    light: tuple[float, float],
) -> np.ndarray:
    """`scene` float32 (H, W, 3), linear, seen past drops of height `surface` and `radius`, both (H, W) in pixels.

    `defocus`: σ of the drops' blur in pixels; `sky`: stray light that a drop gathers, 1.0 = white; `light`: the surface
    normal (down, right) that mirrors the sun.
    """
    slope_y, slope_x = np.gradient(surface)
    steepness = np.sqrt(1 + slope_y**2 + slope_x**2)
    normal_y, normal_x = -slope_y / steepness, -slope_x / steepness
    rows, columns = np.mgrid[: surface.shape[0], : surface.shape[1]].astype(np.float32)
    view = cv2.remap(
        cv2.GaussianBlur(scene, (0, 0), 2.5 * defocus),
        columns - np.float32(_BEND) * radius * normal_x,
        rows - np.float32(_BEND) * radius * normal_y,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    tilt = normal_y**2 + normal_x**2
    mirrored = np.exp(-((normal_y - light[0]) ** 2 + (normal_x - light[1]) ** 2) / (2 * 0.1**2))
    view *= (1 - 0.4 * tilt)[..., None]
    view += (np.float32(sky) * (1 - tilt) + np.float32(0.15) * mirrored)[..., None]

    view = cv2.GaussianBlur(view, (0, 0), defocus)
    matte = cv2.GaussianBlur((surface > 0).astype(np.float32), (0, 0), defocus)[..., None]
    return scene * (1 - matte) + np.clip(view, 0, 1) * matte


def drops(rng: np.random.Generator, shape: tuple[int, int], count: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Height and radius of `count` drops: two (H, W) arrays in pixels, 0 where the glass is dry."""
    surface, radius = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for _ in range(count):
        size = unit * _RADII[0] * (_RADII[1] / _RADII[0]) ** (rng.random() ** 3)
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        for part in range(int(rng.integers(1, 6))):
            part_size = size * (1 if part == 0 else rng.uniform(0.4, 0.9))
            away = 0 if part == 0 else rng.uniform(0.3, 0.9) * size
            turn = rng.uniform(0, 2 * math.pi)
            _merge(surface, radius, row + away * math.sin(turn), column + away * math.cos(turn), part_size)
    return cv2.GaussianBlur(surface, (0, 0), max(0.8 * unit, 0.3)), radius


def _merge(surface: np.ndarray, radius: np.ndarray, row: float, column: float, size: float) -> None:
    """Raises the surface to a spherical cap, stretched downward by gravity, where that is higher."""
    reach = math.ceil(1.3 * size)
    top, left = max(0, int(row) - reach), max(0, int(column) - reach)
    window = np.s_[top : int(row) + reach + 1, left : int(column) + reach + 1]
    if not surface[window].size:
        return
    patch = surface[window]
    rows, columns = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]].astype(np.float32)
    down = (rows - row) / size
    distance = ((columns - column) / size) ** 2 + np.where(down > 0, down / 1.25, down) ** 2
    sphere = size / math.sin(_CONTACT)
    cap = np.sqrt(np.maximum(sphere**2 - size**2 * distance, 0)) - sphere * np.float32(math.cos(_CONTACT))
    higher = cap > patch
    patch[higher] = cap[higher]
    radius[window][higher] = size
