"""The exposure of a shaken camera, rendered: its sub-frames warped and added up."""

import math

import cv2
import numpy as np

from pipelines.degradations.deblur import moving
from pipelines.degradations.deblur.trajectory import exposure
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar

Slices = tuple[slice, slice]


def render(
    scene: np.ndarray, rng: np.random.Generator, frame: Frame, inside: Slices, parameters: dict[str, Scalar]
) -> np.ndarray:
    """The mean light, float32 (h, w, 4), at the rows and columns `inside` of a region of `frame`.

    `scene`, float32 (H, W, 4), is the region's light at mid-exposure.
    """
    path, drift, layers = parameters["path"] * frame.unit(1280, 720), (0.0, 0.0), None
    if "object_path" in parameters:
        drift = moving.drift(frame, parameters)
        layers = moving.layers(scene, rng, frame, parameters)
    shot = exposure(rng, frame, path, parameters["focal"], drift)
    touched = None
    if layers is not None:
        scene = layers.background
        touched = _overlap(inside, layers.window, math.ceil(path + math.hypot(*drift) / 2) + 1)

    total = np.zeros((inside[0].stop - inside[0].start, inside[1].stop - inside[1].start, 4), np.float32)
    for warp, dwell, moment in zip(*shot, strict=True):
        view = _warp(scene, warp, inside)
        if touched is not None:
            carried = _shift(-drift[0] * moment, -drift[1] * moment) @ warp
            part = view[_within(inside, touched)]
            part *= _warp(layers.clear, carried, touched)
            part += _warp(layers.foreground, carried, touched)
        cv2.scaleAdd(view, float(dwell), total, dst=total)
    return total


def _warp(image: np.ndarray, warp: np.ndarray, window: Slices) -> np.ndarray:
    """What `window` shows of `image` (H, W, 4) through `warp`; beyond its border the image is mirrored."""
    rows, columns = window
    return cv2.warpPerspective(
        image,
        warp @ _shift(columns.start, rows.start),
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


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
