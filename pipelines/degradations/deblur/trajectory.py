"""The camera's motion while the shutter is open, and the sub-frames that sample it.

The trajectory of yaw, pitch and roll follows Boracchi & Foi 2012 ("Modeling the performance of image restoration from
motion blur"): inertia, random acceleration and sudden jerks. Rotating a camera by R moves the image by the homography
K R K⁻¹, so the blur differs over the image. The target is the sharp view at mid-exposure.
"""

import math
from typing import NamedTuple

import numpy as np

from pipelines.degradations.frame import Frame

MOMENTS = 513  # of the exposure, at which the trajectory is computed: odd, so that one of them is its middle
FEWEST, MOST = 9, 128  # sub-frames: so that the shape of a short path is kept; so that a long one takes no longer
_MIDDLE = MOMENTS // 2
_TIMES = (np.arange(MOMENTS) - _MIDDLE) / (MOMENTS - 1)


class Exposure(NamedTuple):
    """The n sub-frames of one exposure.

    `warps` (n, 3, 3): homographies that take a pixel of the region to where its light came from at mid-exposure.
    `dwell` (n,): the shares of time spent there, which sum to 1. `moments` (n,): the times, −½ to ½, 0 at
    mid-exposure. `spacing`, `object_spacing`: pixels that the farthest moving pixel of the scene, and of an object that
    moves through it, travels between two sub-frames; the second is at least the first.
    """

    warps: np.ndarray
    dwell: np.ndarray
    moments: np.ndarray
    spacing: float
    object_spacing: float


def exposure(
    rng: np.random.Generator, frame: Frame, path: float, focal: float, drift: tuple[float, float] = (0.0, 0.0)
) -> Exposure:
    """The camera's exposure: no pixel of the frame travels farther than `path` (pixels of this frame).

    `focal` is in widths of the frame. No pixel moves by more than about one between two sub-frames, nor does an object
    that moves by `drift` (x and y, pixels) over the exposure on top of the camera's motion, unless that took more than
    `MOST` sub-frames: then they are `spacing` apart.
    """
    height, width = frame.frame_height, frame.frame_width
    camera = np.array([[focal * width, 0, (width - 1) / 2], [0, focal * width, (height - 1) / 2], [0, 0, 1]])
    x, y = np.meshgrid(np.linspace(0, width - 1, 3), np.linspace(0, height - 1, 3))
    points = np.stack([x.ravel(), y.ravel(), np.ones(9)])

    def places(angles: np.ndarray) -> np.ndarray:
        return _project(_homographies(camera, angles), points)

    angles = trajectory(rng)
    angles *= 1e-3 / np.abs(angles).max()
    for _ in range(3):  # displacement is nearly proportional to angle
        angles *= path / max(_steps(places(angles)).sum(axis=0).max(), 1e-12)

    seen = places(angles)
    moved = np.array(drift)[:, None] * _TIMES[:, None, None]
    steps = np.maximum(_steps(seen), _steps(seen - moved)).max(axis=1)
    # A share of the time makes the way grow where nothing moves, so that every place on it has a time.
    way = np.concatenate([[0.0], np.cumsum(steps + 1e-6)])
    count = min(max(math.ceil(way[-1]) + 1, FEWEST), MOST)
    stations = np.linspace(0, way[-1], count)
    borders = np.concatenate([stations[:1], (stations[1:] + stations[:-1]) / 2, stations[-1:]])
    visited = np.stack([np.interp(stations, way, axis) for axis in angles.T], axis=1)

    shift = np.array([[1, 0, frame.frame_left], [0, 1, frame.frame_top], [0, 0, 1]], float)
    warps = np.linalg.inv(shift) @ _homographies(camera, visited) @ shift
    dwell, moments = np.diff(np.interp(borders, way, _TIMES)), np.interp(stations, way, _TIMES)
    spacing = float(_steps(places(visited)).max())
    return Exposure(warps, dwell, moments, spacing, max(spacing, float(stations[1])))


def trajectory(rng: np.random.Generator) -> np.ndarray:
    """Yaw, pitch and roll over the exposure: (MOMENTS, 3) of arbitrary scale, all 0 at its middle."""
    jerk_chance = rng.uniform(0, 4) / MOMENTS
    strength = rng.uniform(0.3, 1.0, size=3) * (1, 1, 0.5)  # roll is the steadiest, and blurs the borders alone
    pushes = 0.07 * rng.standard_normal((MOMENTS, 3))
    pushes += np.where(rng.random((MOMENTS, 1)) < jerk_chance, rng.standard_normal((MOMENTS, 3)), 0)
    pushes[0] = rng.standard_normal(3)
    angles = np.stack([np.convolve(_RESPONSE, axis)[:MOMENTS] for axis in pushes.T], axis=1)
    return strength * (angles - angles[_MIDDLE])


def _response(inertia: float = 0.995, pull: float = 5e-5) -> np.ndarray:
    """How far one push has turned a camera at rest, moments later: (MOMENTS,)."""
    angles, velocity = [1.0], 1.0
    for _ in range(MOMENTS - 1):
        velocity = inertia * velocity - pull * angles[-1]
        angles.append(angles[-1] + velocity)
    return np.array(angles)


_RESPONSE = _response()


def _steps(places: np.ndarray) -> np.ndarray:
    """The distances between successive places (n, 2, m): (n − 1, m)."""
    return np.linalg.norm(np.diff(places, axis=0), axis=1)


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
