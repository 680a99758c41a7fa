"""An object that moves by itself through a scene that the camera's shake moves too.

At mid-exposure the scene is the sharp image. The object is a region of it with a soft, irregular outline; what it
uncovers at other moments looks like its surroundings, mirrored at the outline.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from pipelines.degradations.deblur.grid import Grid, Slices
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar

_SOFT = 4.0  # pixels of a 1280×720 frame over which the outline fades
_BEHIND = 1.5  # paths: what is mirrored from farther away is never uncovered, the outline being oblique at most so much
_LOBES = np.arange(2, 6)


class Outline(NamedTuple):
    """An ellipse whose size swings around it: half axes in mean radii (2,), then amplitude and phase of each swing."""

    axes: np.ndarray
    swings: np.ndarray
    turns: np.ndarray


class Layers(NamedTuple):
    """A scene taken apart: scene = background · clear + foreground, to the last bit but one.

    `background` is the scene without the object; on a grid of their own, `foreground` is the object's light times its
    matte and `clear` 1 − matte in every plane. `window`: the region's rows and columns outside which there is nothing
    of the object.
    """

    background: Grid
    foreground: Grid
    clear: Grid
    window: Slices


def drift(frame: Frame, parameters: dict[str, Scalar]) -> tuple[float, float]:
    """The object's own motion over the exposure, to the right and down, in pixels of `frame`."""
    path = parameters["object_path"] * frame.unit(1280, 720)
    angle = math.radians(parameters["object_angle"])
    return path * math.cos(angle), path * math.sin(angle)


def margin(frame: Frame, path: float) -> float:
    """Pixels around a region from which the motion of an object brings something in."""
    return (_BEHIND * path + _SOFT) * frame.unit(1280, 720)


def outline(rng: np.random.Generator) -> Outline:
    """A random outline, of an aspect ratio of 1:2 to 2:1."""
    aspect = 2 ** rng.uniform(-0.5, 0.5)
    swings, turns = rng.uniform(0, 0.3, size=4) / _LOBES, rng.uniform(0, 2 * np.pi, size=4)
    return Outline(np.array([aspect, 1 / aspect]), swings, turns)


def window(shape: tuple[int, ...], form: Outline, frame: Frame, parameters: dict[str, Scalar]) -> Slices | None:
    """The rows and columns of a region of `shape` that the object may cover; None where nothing of it is."""
    middle, radii = _place(form, frame, parameters)
    farthest = radii * (1 + form.swings.sum())
    left, top = np.clip(np.floor(middle - farthest), 0, shape[1::-1]).astype(int)
    right, bottom = np.clip(np.ceil(middle + farthest) + 1, 0, shape[1::-1]).astype(int)
    return np.s_[top:bottom, left:right] if left < right and top < bottom else None


def layers(
    scene: Grid, background: Grid, covered: Slices, form: Outline, frame: Frame, parameters: dict[str, Scalar]
) -> Layers:
    """A region of `frame` taken apart, whose object is within `covered`; its light is given twice.

    `background`, finer and only as large as will be seen, loses the object in place; `scene` is read around it, and
    what is the object's is as fine as this. `object_x`, `object_y`: its middle in shares of the frame's sides;
    `object_size`: its mean diameter in shares of the frame's height.
    """
    soft = np.float32(_SOFT * frame.unit(1280, 720))
    *_, depth, _ = _rays(scene, covered, form, frame, parameters)
    matte = np.clip(depth / soft, 0, 1)
    matte = np.repeat((matte * matte * (3 - 2 * matte))[..., None], 4, axis=2)
    foreground, clear = np.zeros_like(scene.light), np.ones_like(scene.light)
    inside = scene.window(covered)
    foreground[inside] = scene.light[inside] * matte
    clear[inside] -= matte

    farthest_seen = np.float32(_BEHIND * np.hypot(*drift(frame, parameters)))
    across, down, depth, away = _rays(background, covered, form, frame, parameters)
    outward = np.clip(2 * (depth - soft), 0, farthest_seen) / away
    hidden = outward > 0
    if hidden.any():
        rows, columns = background.places(background.window(covered))
        (scale, _, left), (_, _, top), _ = scene.matrix.astype(np.float32)
        x, y = (columns + across * outward) * scale + left, (rows + down * outward) * scale + top
        mirrored = cv2.remap(scene.light, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        np.copyto(background.light[background.window(covered)], mirrored, where=hidden[..., None])
    return Layers(background, scene._replace(light=foreground), scene._replace(light=clear), covered)


def _place(form: Outline, frame: Frame, parameters: dict[str, Scalar]) -> tuple[np.ndarray, np.ndarray]:
    """The object's middle (x, y) in pixels of the region, and its half axes in pixels."""
    middle = np.array([parameters["object_x"] * frame.frame_width, parameters["object_y"] * frame.frame_height])
    return middle - (frame.frame_left, frame.frame_top), parameters["object_size"] * frame.frame_height / 2 * form.axes


def _rays(
    grid: Grid, covered: Slices, form: Outline, frame: Frame, parameters: dict[str, Scalar]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How far each place of the grid within `covered` is from the object's middle: to the right, down, its depth inside
    the outline (see `_depth`), and the distance, float32 (h, w) or broadcast to it, in pixels of the region."""
    middle, radii = _place(form, frame, parameters)
    rows, columns = grid.places(grid.window(covered))
    across, down = columns - np.float32(middle[0]), rows - np.float32(middle[1])
    away = np.maximum(np.hypot(across, down), np.float32(1e-3))
    return across, down, _depth(across, down, away, radii, form.swings, form.turns), away


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
