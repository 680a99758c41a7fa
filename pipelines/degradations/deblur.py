"""Camera shake: the view turns along a random trajectory while the shutter is open, and the light of all moments adds.

The trajectory of yaw, pitch and roll follows Boracchi & Foi 2012 ("Modeling the performance of image restoration from
motion blur"): inertia, random acceleration and sudden jerks. Rotating a camera by R moves the image by the homography
K R K⁻¹, so the blur differs over the image. The target is the sharp view at mid-exposure.
"""

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from kgt.imaging import linear_to_srgb, srgb_to_linear, to_rgb
from pipelines.degradations import values
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Choice, Range, Scalar, Values, fixed, numbers, words

MOMENTS = 512  # of the exposure, at which the trajectory is computed
FEWEST = 9  # sub-frames of a short path, so that its shape is kept
_LINEAR = srgb_to_linear(np.arange(256) / 255).astype(np.float32)


@dataclass(frozen=True)
class Settings:
    """`path`: what the farthest moving pixel travels, in pixels of a 1280×720 frame; `focal`: in image widths.

    `space`: whether encoded values are averaged, as GoPro's published pairs were made, or linear light, as a sensor
    does; then highlights that the photograph clipped shine up to `highlight` times as bright. `shot` and `read` are
    the noise of the exposure: variance shot·x + read² in linear light.
    """

    path: Values = field(default=Range(5.0, 60.0, log=True), metadata=numbers(0.1, 300, log=True))
    focal: Values = field(default=Range(1.0, 1.3), metadata=numbers(0.3, 20))
    space: Values = field(default=Choice(("encoded", "linear")), metadata=words("encoded", "linear"))
    highlight: Values = field(default=Range(1.0, 4.0), metadata=numbers(1, 100))
    shot: Values = field(default=Range(1e-6, 1e-4, log=True), metadata=numbers(1e-9, 1, log=True))
    read: Values = field(default=Range(1e-4, 2e-3, log=True), metadata=numbers(1e-9, 1, log=True))


EVALUATION = Settings(space=fixed("encoded"))
POSITIONED = True


def draw(settings: Settings, rng: np.random.Generator) -> dict[str, Scalar]:
    """Every setting once; `highlight` in linear light only."""
    parameters = values.draw(settings, rng)
    if parameters["space"] == "encoded":
        del parameters["highlight"]
    return parameters


def prepare(clean: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The target: the image as RGB."""
    return to_rgb(clean)


def degrade(clean: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """`clean` uint8 (H, W, 3) to the blurred uint8 of the same shape; beyond its border it is mirrored."""
    frame = Frame.of(clean, parameters)
    warps, dwell = exposure(rng, frame, parameters["path"] * frame.unit(1280, 720), parameters["focal"])
    linear = parameters["space"] == "linear"
    sharp = _LINEAR[clean] if linear else clean.astype(np.float32) / np.float32(255)
    if linear:
        clipped = np.clip((clean.max(axis=2, keepdims=True).astype(np.float32) - 230) / 25, 0, 1)
        sharp *= 1 + np.float32(parameters["highlight"] - 1) * clipped**2

    height, width = clean.shape[:2]
    total = np.zeros_like(sharp)
    for warp, weight in zip(warps, dwell, strict=True):
        moved = cv2.warpPerspective(
            sharp,
            warp,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        cv2.scaleAdd(moved, float(weight), total, dst=total)

    light = np.minimum(total if linear else srgb_to_linear(total), 1)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light += noise * np.sqrt(np.float32(parameters["shot"]) * light + np.float32(parameters["read"] ** 2))
    return np.rint(255 * linear_to_srgb(light)).clip(0, 255).astype(np.uint8)


def exposure(rng: np.random.Generator, frame: Frame, path: float, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """The sub-frames of one exposure: homographies (n, 3, 3) and the shares of time spent there (n,), which sum to 1.

    A homography takes a pixel of the region to the place in it where the light came from at mid-exposure. `path` is in
    pixels here: no pixel of the frame moves by more, and none by more than about one between two sub-frames.
    """
    height, width = frame.frame_height, frame.frame_width
    camera = np.array([[focal * width, 0, (width - 1) / 2], [0, focal * width, (height - 1) / 2], [0, 0, 1]])
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]], float).T

    angles = trajectory(rng)
    # For the fractions of a degree at hand, displacement is proportional to angle: one scaling sets the path.
    trial = 1e-3
    places = _project(_homographies(camera, trial * angles), corners)
    longest = np.linalg.norm(np.diff(places, axis=0), axis=1).sum(axis=0).max()
    angles *= trial * path / longest

    steps = np.linalg.norm(np.diff(_project(_homographies(camera, angles), corners), axis=0), axis=1).max(axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    count = max(math.ceil(travelled[-1]) + 1, FEWEST)
    stations = np.linspace(0, travelled[-1], count)
    dwell = np.bincount(np.rint(travelled / max(travelled[-1], 1e-9) * (count - 1)).astype(int), minlength=count)
    visited = np.stack([np.interp(stations, travelled, axis) for axis in angles.T], axis=1)

    shift = np.array([[1, 0, frame.frame_left], [0, 1, frame.frame_top], [0, 0, 1]], float)
    return np.linalg.inv(shift) @ _homographies(camera, visited) @ shift, dwell / dwell.sum()


def trajectory(rng: np.random.Generator) -> np.ndarray:
    """Yaw, pitch and roll over the exposure: (MOMENTS, 3) of arbitrary scale, all 0 at its middle."""
    inertia, pull = 0.995, 5e-5
    jerk_chance = rng.uniform(0, 4) / MOMENTS
    strength = rng.uniform(0.3, 1.0, size=3) * (1, 1, 0.5)  # roll is the steadiest, and blurs the borders alone
    velocity = rng.standard_normal(3)
    pushes = 0.07 * rng.standard_normal((MOMENTS, 3))
    jerks = np.where(rng.random((MOMENTS, 1)) < jerk_chance, rng.standard_normal((MOMENTS, 3)), 0)
    angles = np.zeros((MOMENTS, 3))
    for moment in range(1, MOMENTS):
        velocity = inertia * velocity + pushes[moment] + jerks[moment] - pull * angles[moment - 1]
        angles[moment] = angles[moment - 1] + velocity
    return strength * (angles - angles[MOMENTS // 2])


def margin(settings: Settings, shape: tuple[int, int]) -> int:
    """The longest path of any pixel, and the pixel beyond it that interpolation reads."""
    return math.ceil(values.largest(settings.path) * Frame(*shape).unit(1280, 720)) + 2


def align(settings: Settings) -> int:
    """Crops start anywhere."""
    return 1


def _homographies(camera: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """K R K⁻¹ for each yaw, pitch, roll in radians: (n, 3) to (n, 3, 3)."""
    (sin_y, sin_p, sin_r), (cos_y, cos_p, cos_r) = np.sin(angles).T, np.cos(angles).T
    zero, one = np.zeros(len(angles)), np.ones(len(angles))
    yaw = np.array([[cos_y, zero, sin_y], [zero, one, zero], [-sin_y, zero, cos_y]])
    pitch = np.array([[one, zero, zero], [zero, cos_p, -sin_p], [zero, sin_p, cos_p]])
    roll = np.array([[cos_r, -sin_r, zero], [sin_r, cos_r, zero], [zero, zero, one]])
    rotation = np.einsum("abn,bcn,cdn->nad", roll, pitch, yaw)
    return camera @ rotation @ np.linalg.inv(camera)


def _project(homographies: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Homogeneous points (3, m) through homographies (n, 3, 3): (n, 2, m)."""
    moved = homographies @ points
    return moved[:, :2] / moved[:, 2:]
