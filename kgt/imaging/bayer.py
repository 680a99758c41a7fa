"""Bayer mosaics and the linear demosaicking that is the baseline of the literature."""

from collections.abc import Callable

import numpy as np

PATTERNS = ("rggb", "bggr", "grbg", "gbrg")  # the colours at (0, 0), (0, 1), (1, 0), (1, 1)


def mosaic(rgb: np.ndarray, pattern: str = "rggb") -> np.ndarray:
    """What a sensor behind a Bayer filter sees of (H, W, 3): (H, W) of the same type."""
    out = np.empty(rgb.shape[:2], rgb.dtype)
    for colour, row, column in _sites(pattern):
        out[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    return out


def demosaic_malvar(image: np.ndarray, pattern: str = "rggb") -> np.ndarray:
    """Gradient-corrected linear interpolation (Malvar, He & Cutler 2004), reflecting at the border.

    (H, W) of range 0..255 or 0..1 → (H, W, 3); uint8 is rounded and clipped, floats are left unclipped.
    """
    height, width = image.shape
    kind = np.result_type(image.dtype, np.float32)
    padded = np.pad(image.astype(kind, copy=False), 2, mode="reflect")
    out = np.empty((height, width, 3), kind)

    for colour, row, column in _sites(pattern):

        def tap(dy: int, dx: int, row: int = row, column: int = column) -> np.ndarray:
            return padded[2 + row + dy : 2 + dy + height : 2, 2 + column + dx : 2 + dx + width : 2]

        site = out[row::2, column::2]
        if colour == "g":
            beside = next(c for c, r, k in _sites(pattern) if r == row and k != column)
            site[..., 1] = tap(0, 0)
            site[..., "rgb".index(beside)] = _chroma_at_green(tap)
            site[..., 2 - "rgb".index(beside)] = _chroma_at_green(lambda dy, dx, tap=tap: tap(dx, dy))
        else:
            same = "rgb".index(colour)
            site[..., same] = tap(0, 0)
            site[..., 1] = _green_at_chroma(tap)
            site[..., 2 - same] = _chroma_at_chroma(tap)
    return np.floor(out + 0.5).clip(0, 255).astype(np.uint8) if image.dtype == np.uint8 else out


def _sites(pattern: str) -> list[tuple[str, int, int]]:
    """The four (colour, row, column) of a 2×2 cell."""
    if pattern not in PATTERNS:
        raise ValueError(f"unknown Bayer pattern '{pattern}': known: {', '.join(PATTERNS)}")
    return [(colour, index // 2, index % 2) for index, colour in enumerate(pattern)]


Tap = Callable[[int, int], np.ndarray]


def _cross(tap: Tap, distance: int) -> np.ndarray:
    return tap(-distance, 0) + tap(distance, 0) + tap(0, -distance) + tap(0, distance)


def _diagonal(tap: Tap) -> np.ndarray:
    return tap(-1, -1) + tap(-1, 1) + tap(1, -1) + tap(1, 1)


def _green_at_chroma(tap: Tap) -> np.ndarray:
    """Green where red or blue was measured (fig. 2, upper row)."""
    return (4 * tap(0, 0) + 2 * _cross(tap, 1) - _cross(tap, 2)) / 8


def _chroma_at_green(tap: Tap) -> np.ndarray:
    """Red (blue) at a green pixel with red (blue) beside it (fig. 2); with taps transposed, above and below it."""
    beside = 4 * (tap(0, -1) + tap(0, 1)) - tap(0, -2) - tap(0, 2)
    return (5 * tap(0, 0) + beside - _diagonal(tap) + (tap(-2, 0) + tap(2, 0)) / 2) / 8


def _chroma_at_chroma(tap: Tap) -> np.ndarray:
    """Red where blue was measured, and the reverse (fig. 2, right column)."""
    return (6 * tap(0, 0) + 2 * _diagonal(tap) - 1.5 * _cross(tap, 2)) / 8
