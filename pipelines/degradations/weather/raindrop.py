"""Raindrops on the lens or a window before it, in linear light.

Each drop is a smooth height field: spheres that merge as water does, and sag. Its surface normal bends the view: a
drop shows the scene flipped and out of focus, darker toward its rim, with a small highlight, behind a soft matte.
"""

import math

import cv2
import numpy as np

from kgt.imaging import linear_to_srgb, srgb_to_linear
from pipelines.degradations.frame import WHOLE, Frame
from pipelines.degradations.values import Scalar
from pipelines.degradations.weather.depth import smooth_noise

_RADII = (4.0, 60.0)  # pixels at 720 px width
_CONTACT = math.radians(50)  # between glass and drop, at the rim
_BEHIND = 2.5  # the view's defocus in a drop, in those of the drop
_MERGE = 3.0  # how sharply spheres meet: higher, the narrower the neck between two
_SAG = 1.25  # a drop's lower half is as much longer
_UNEVEN = 0.1  # standard deviation of a squared distance from the centre, as a share of it


def reach(parameters: dict[str, Scalar]) -> float:
    """Surroundings that the result depends on, in pixels at 720 px width: what the largest drop shows at its rim."""
    displaced = parameters["bend"] * _RADII[1] * math.sin(_CONTACT)
    return displaced + 3 * math.hypot(1, _BEHIND) * parameters["defocus"]


def render(
    clean: np.ndarray,
    rng: np.random.Generator,
    parameters: dict[str, Scalar],
    frame: Frame,
    inside: tuple[slice, slice] = WHOLE,
) -> np.ndarray:
    """`clean` uint8 (H, W, 3), its part `inside` behind drops: float32, encoded, 1.0 = white."""
    unit = frame.unit(720, 480)
    light = cv2.LUT(clean, srgb_to_linear(np.arange(256, dtype=np.float32) / np.float32(255)))
    scene = light[inside]
    # What lies on the glass is out of focus by `defocus`: pixels half as coarse as that show all there is.
    defocus = max(parameters["defocus"] * unit, 0.5)
    step = max(1, round(defocus / 2))
    far = cv2.resize(light, tuple(-(-side // step) for side in light.shape[1::-1]), interpolation=cv2.INTER_AREA)
    pad = math.ceil(3 * defocus / step)  # the blur's reach
    shape = tuple(-(-side // step) + 2 * pad for side in scene.shape[:2])
    drops_a_pixel = parameters["drops"] / (frame.frame_height * frame.frame_width) * step**2
    water = drops(rng, shape, drops_a_pixel, unit / step)
    uneven = np.float32(_UNEVEN) * smooth_noise(rng, shape, 25 * unit / step)
    view, matte = refract(
        far,
        *surface_of(water, uneven),
        corner=tuple((part.start or 0) / step - pad for part in inside),
        bend=parameters["bend"],
        defocus=defocus / step,
        sky=parameters["sky"],
        sun=(parameters["sun_y"], parameters["sun_x"]),
    )
    height, width = scene.shape[:2]
    view, matte = (
        cv2.resize(layer[pad:-pad, pad:-pad], None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)[:height, :width]
        for layer in (view, matte)
    )
    return linear_to_srgb(scene + matte[..., None] * (view - scene))


def refract(
    scene: np.ndarray,
    surface: np.ndarray,
    radius: np.ndarray,
    *,
    bend: float,
    defocus: float,
    sky: float,
    sun: tuple[float, float],
    corner: tuple[float, float] = (0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """What drops of height `surface` and `radius`, both (H, W) in pixels, show of `scene`: float32 (·, ·, 3), linear.

    `bend`: displacement of the view by a normal in the glass's plane, in radii; `defocus`: σ of the drops' blur in
    pixels; `sky`: stray light that a drop gathers, 1.0 = white; `sun`: the surface normal (down, right) that mirrors
    it; `corner`: the row and column of `scene` where the drops' first pixel lies. Returns the view (H, W, 3) and how
    much of it covers the scene (H, W), 0–1.
    """
    slope_x, slope_y = (cv2.Sobel(surface, -1, dx, 1 - dx, ksize=1, scale=0.5) for dx in (1, 0))
    steepness = np.sqrt(1 + slope_y**2 + slope_x**2)
    normal_y, normal_x = -slope_y / steepness, -slope_x / steepness
    rows, columns = np.mgrid[: surface.shape[0], : surface.shape[1]].astype(np.float32)
    view = cv2.remap(
        cv2.GaussianBlur(scene, (0, 0), _BEHIND * defocus),
        columns + np.float32(corner[1]) - np.float32(bend) * radius * normal_x,
        rows + np.float32(corner[0]) - np.float32(bend) * radius * normal_y,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    tilt = normal_y**2 + normal_x**2
    mirrored = np.exp(-((normal_y - sun[0]) ** 2 + (normal_x - sun[1]) ** 2) / (2 * 0.1**2))
    view *= (1 - 0.4 * tilt)[..., None]
    view += (np.float32(sky) * (1 - tilt) + np.float32(0.3) * mirrored)[..., None]

    matte = cv2.GaussianBlur((surface > 0).astype(np.float32), (0, 0), defocus)
    return np.clip(cv2.GaussianBlur(view, (0, 0), defocus), 0, 1), matte


def drops(rng: np.random.Generator, shape: tuple[int, int], density: float, unit: float) -> np.ndarray:
    """Water on the glass (2, H, W), as `pour` adds it: `density` drops a pixel in the mean, of a few merged spheres."""
    reach = _RADII[1] * unit
    centred = (shape[0] + 2 * reach) * (shape[1] + 2 * reach)
    water = np.zeros((2, *shape), np.float32)
    for _ in range(rng.poisson(density * centred)):
        size = unit * _RADII[0] * (_RADII[1] / _RADII[0]) ** (rng.random() ** 3)
        row, column = rng.uniform(-reach, shape[0] + reach), rng.uniform(-reach, shape[1] + reach)
        for part in range(int(rng.integers(1, 6))):
            part_size = size * (1 if part == 0 else rng.uniform(0.4, 0.9))
            away = 0 if part == 0 else rng.uniform(0.3, 0.9) * size
            turn = rng.uniform(0, 2 * math.pi)
            pour(water, row + away * math.sin(turn), column + away * math.cos(turn), part_size)
    return water


def pour(water: np.ndarray, row: float, column: float, size: float) -> None:
    """Adds a sphere of radius `size` pixels, stretched downward by gravity, to `water` (2, H, W) in place.

    It adds w size² and w size³ with w = exp(−a s²) at s radii from the centre: their ratio is a mean radius that the
    largest sphere rules.
    """
    reach = 1.7 * size  # where w is 1e-4 of a centre's
    top, bottom = max(0, math.ceil(row - reach)), max(0, math.ceil(row + _SAG * reach))
    left, right = max(0, math.ceil(column - reach)), max(0, math.ceil(column + reach))
    down = (np.arange(top, min(bottom, water.shape[1]), dtype=np.float32) - row) / size
    beside = (np.arange(left, min(right, water.shape[2]), dtype=np.float32) - column) / size
    down = np.where(down > 0, down / _SAG, down)
    near = np.exp(-_MERGE * down**2)[:, None] * np.exp(-_MERGE * beside**2)
    water[:, top:bottom, left:right] += near * np.array([size**2, size**3], np.float32)[:, None, None]


def surface_of(water: np.ndarray, uneven: np.ndarray | float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Height (0 on dry glass) and radius of what was poured: two (H, W) arrays in pixels.

    −ln(Σ w size² / radius²) / a is a smooth minimum of s² over the spheres, the small ones of which count less: the
    height is that of a spherical cap at this distance.
    """
    area, volume = np.maximum(water, 1e-12)
    radius = volume / area
    square = -np.log(area / radius**2) / np.float32(_MERGE) * (1 + uneven)
    sphere = 1 / math.sin(_CONTACT)
    cap = np.sqrt(np.maximum(sphere**2 - square, 0)) - np.float32(sphere * math.cos(_CONTACT))
    return radius * np.maximum(cap, 0), radius
