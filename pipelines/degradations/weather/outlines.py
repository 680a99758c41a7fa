"""Draws snowflakes: polygons that may be smaller than a pixel, each of which covers its true area."""

import math

import numpy as np
from numba import njit

_SHARPEST = 2.0  # pixels across: a smaller flake is drawn as large, and as much fainter
_RAMP = math.pi / 12  # what an edge that fades over a pixel adds to the area of a disc


def let_through(
    shape: tuple[int, int], places: np.ndarray, radii: np.ndarray, squeezes: np.ndarray, opacities: np.ndarray
) -> np.ndarray:
    """The light that passes N flakes one behind the other: float32 (H, W) in 0–1.

    `places` (N, 2): row and column of their middles in pixels; `radii` (N, corners): the corners' distances from there,
    at even angles; `squeezes` (N,): height by width; `opacities` (N,) in 0–1.
    """
    enlarged = np.maximum(_SHARPEST / (2 * radii.mean(axis=1)), 1)
    drawn = radii * enlarged[:, None]
    wedge = math.sin(2 * math.pi / radii.shape[1]) / 2
    area = wedge * np.sum(radii * np.roll(radii, 1, axis=1), axis=1)
    clear = np.ones(shape, np.float32)
    _draw(clear, places, drawn, squeezes, opacities * area / (area * enlarged**2 + _RAMP))
    return clear


@njit(nogil=True, cache=True)
def _draw(
    clear: np.ndarray, places: np.ndarray, radii: np.ndarray, squeezes: np.ndarray, opacities: np.ndarray
) -> None:
    """Multiplies `clear` (H, W) by what each flake lets through, in place."""
    height, width = clear.shape
    corners = radii.shape[1]
    wedge = 2 * math.pi / corners
    for flake in range(len(places)):
        row, column = places[flake]
        reach = radii[flake].max() + 0.5
        for y in range(max(0, math.ceil(row - reach)), min(height, math.floor(row + reach) + 1)):
            for x in range(max(0, math.ceil(column - reach)), min(width, math.floor(column + reach) + 1)):
                down, beside = (y - row) / squeezes[flake], x - column
                sector = (math.atan2(down, beside) / wedge) % corners
                corner = min(int(sector), corners - 1)
                turned = (sector - corner) * wedge
                first, second = radii[flake, corner], radii[flake, (corner + 1) % corners]
                edge = first * second * math.sin(wedge) / (first * math.sin(turned) + second * math.sin(wedge - turned))
                inside = min(max(edge - math.hypot(down, beside) + 0.5, 0.0), 1.0)
                clear[y, x] *= 1 - opacities[flake] * inside
