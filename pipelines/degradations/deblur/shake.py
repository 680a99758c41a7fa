"""The exposure of a shaken camera, rendered: its sub-frames warped and added up."""

import math

import cv2
import numpy as np

from pipelines.degradations.deblur import moving
from pipelines.degradations.deblur.grid import Grid, Slices, gather
from pipelines.degradations.deblur.trajectory import exposure
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar


def render(
    image: np.ndarray, rng: np.random.Generator, frame: Frame, inside: Slices, parameters: dict[str, Scalar]
) -> np.ndarray:
    """The mean light, float32 (h, w, 4), at the rows and columns `inside` of a region of `frame`.

    `image`, uint8 (H, W, 3), is the region at mid-exposure. Where sub-frames are several pixels apart, what they show
    is averaged over as many: about a hundredth of the path, and nothing where nothing moves.
    """
    path, drift, covered = parameters["path"] * frame.unit(1280, 720), (0.0, 0.0), None
    if "object_path" in parameters:
        drift, outline = moving.drift(frame, parameters), moving.outline(rng)
        covered = moving.window(image.shape, outline, frame, parameters)
    shot = exposure(rng, frame, path, parameters["focal"], drift)
    step = max(1, round(shot.spacing))
    background = gather(image, _around(inside, path + step + 1, image.shape), step, frame, parameters)
    touched = None
    if covered is not None:
        touched = _overlap(inside, covered, math.ceil(path + math.hypot(*drift) / 2) + 1)
    if touched is not None:
        step = max(1, round(shot.object_spacing))
        scene = gather(image, (slice(0, image.shape[0]), slice(0, image.shape[1])), step, frame, parameters)
        layers = moving.layers(scene, background, covered, outline, frame, parameters)

    total = np.zeros((inside[0].stop - inside[0].start, inside[1].stop - inside[1].start, 4), np.float32)
    for warp, dwell, moment in zip(shot.warps, shot.dwell, shot.moments, strict=True):
        view = _warp(background, warp, inside)
        if touched is not None:
            carried = _shift(-drift[0] * moment, -drift[1] * moment) @ warp
            part = view[_within(inside, touched)]
            part *= _warp(layers.clear, carried, touched)
            part += _warp(layers.foreground, carried, touched)
        cv2.scaleAdd(view, float(dwell), total, dst=total)
    return total


def _warp(scene: Grid, warp: np.ndarray, window: Slices) -> np.ndarray:
    """What `window` of the region shows of `scene` through `warp`; beyond its border the scene is mirrored."""
    rows, columns = window
    return cv2.warpPerspective(
        scene.light,
        scene.matrix @ warp @ _shift(columns.start, rows.start),
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def _around(window: Slices, reach: float, shape: tuple[int, ...]) -> Slices:
    """`window` and `reach` pixels around it, as far as a region of `shape` has them."""
    rows, columns = (
        slice(max(0, part.start - math.ceil(reach)), min(side, part.stop + math.ceil(reach)))
        for part, side in zip(window, shape, strict=False)
    )
    return rows, columns


def _within(inside: Slices, window: Slices) -> Slices:
    """`window`, counted from where `inside` starts."""
    rows, columns = (slice(w.start - i.start, w.stop - i.start) for w, i in zip(window, inside, strict=True))
    return rows, columns


def _overlap(inside: Slices, window: Slices, reach: int) -> Slices | None:
    """The part of `inside` that lies within `reach` pixels of `window`; None if there is none."""
    rows, columns = (
        slice(max(i.start, w.start - reach), min(i.stop, w.stop + reach)) for w, i in zip(window, inside, strict=True)
    )
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
