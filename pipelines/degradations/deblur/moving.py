"""An object that moves by itself through a scene that the camera's shake moves too.

At mid-exposure the scene is the sharp image. The object is a region of it with a soft, irregular outline; what it
uncovers at other moments looks like its surroundings, mirrored at the outline.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar

_SOFT = 4.0  # pixels of a 1280×720 frame over which the outline fades
_BEHIND = 1.5  # paths: what is mirrored from farther away is never uncovered, the outline being oblique at most so much
_LOBES = np.arange(2, 6)


class Layers(NamedTuple):
    """A scene taken apart, float32 (H, W, 4) each: scene = background · clear + foreground, to the last bit but one.

    `background` is the scene without the object, `foreground` the object's light times its matte, `clear` 1 − matte in
    every plane. `window`: the rows and columns outside which there is nothing of the object.
    """

    background: np.ndarray
    foreground: np.ndarray
    clear: np.ndarray
    window: tuple[slice, slice]


def drift(frame: Frame, parameters: dict[str, Scalar]) -> tuple[float, float]:
    """The object's own motion over the exposure, to the right and down, in pixels of `frame`."""
    path = parameters["object_path"] * frame.unit(1280, 720)
    angle = math.radians(parameters["object_angle"])
    return path * math.cos(angle), path * math.sin(angle)


def margin(frame: Frame, path: float) -> float:
    """Pixels around a region from which the motion of an object brings something in."""
    return (_BEHIND * path + _SOFT) * frame.unit(1280, 720)


def layers(scene: np.ndarray, rng: np.random.Generator, frame: Frame, parameters: dict[str, Scalar]) -> Layers | None:
    """`scene`, float32 (H, W, 4), a region of `frame`, taken apart; None where nothing of the object is in it.

    `object_x`, `object_y`: its middle in shares of the frame's sides; `object_size`: its mean diameter in shares of the
    frame's height. Aspect ratio (1:2 to 2:1) and outline come from `rng`.
    """
    aspect = 2 ** rng.uniform(-0.5, 0.5)
    swings, turns = rng.uniform(0, 0.3, size=4) / _LOBES, rng.uniform(0, 2 * np.pi, size=4)
    radii = parameters["object_size"] * frame.frame_height / 2 * np.array([aspect, 1 / aspect])
    middle = np.array([parameters["object_x"] * frame.frame_width, parameters["object_y"] * frame.frame_height])
    middle -= frame.frame_left, frame.frame_top

    height, width = scene.shape[:2]
    farthest = radii * (1 + swings.sum())
    left, top = np.clip(np.floor(middle - farthest), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(middle + farthest) + 1, 0, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return None
    window = np.s_[top:bottom, left:right]

    x, y = np.arange(left, right, dtype=np.float32)[None], np.arange(top, bottom, dtype=np.float32)[:, None]
    across, down = x - np.float32(middle[0]), y - np.float32(middle[1])
    away = np.maximum(np.hypot(across, down), np.float32(1e-3))
    depth = _depth(across, down, away, radii, swings, turns)
    soft = _SOFT * frame.unit(1280, 720)
    matte = np.clip(depth / np.float32(soft), 0, 1)
    matte = np.repeat((matte * matte * (3 - 2 * matte))[..., None], 4, axis=2)

    farthest_seen = np.float32(_BEHIND * np.hypot(*drift(frame, parameters)))
    outward = np.clip(2 * (depth - np.float32(soft)), 0, farthest_seen) / away
    background, foreground, clear = scene.copy(), np.zeros_like(scene), np.ones_like(scene)
    background[window] = cv2.remap(
        scene, x + across * outward, y + down * outward, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    foreground[window] = scene[window] * matte
    clear[window] -= matte
    return Layers(background, foreground, clear, window)


def _depth(
    across: np.ndarray, down: np.ndarray, away: np.ndarray, radii: np.ndarray, swings: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """How far inside the outline each place is, in pixels along the ray from the middle (outside: negative).

    The outline is an ellipse of half axes `radii` whose size swings around it. `away` is the distance from the middle.
    """
    right, under = across / np.float32(radii[0]), down / np.float32(radii[1])
    bearing = np.arctan2(under, right)
    size = np.ones_like(bearing)
    for lobes, swing, turn in zip(_LOBES, swings, turns, strict=True):
        size += np.float32(swing) * np.cos(lobes * bearing + np.float32(turn))
    return away * (size / np.maximum(np.hypot(right, under), np.float32(1e-3 / radii.max())) - 1)
