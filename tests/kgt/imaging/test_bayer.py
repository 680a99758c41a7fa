from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.imaging import demosaic_malvar, mosaic, psnr, read_image
from kgt.imaging.bayer import PATTERNS

COLOURS = np.array([[[10, 100, 200]]], dtype=np.uint8)


def test_the_mosaic_is_rggb() -> None:
    assert mosaic(np.tile(COLOURS, (2, 4, 1))).tolist() == [[10, 100, 10, 100], [100, 200, 100, 200]]


@given(st.integers(2, 13), st.integers(2, 13), st.sampled_from(PATTERNS), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_flat_colour_comes_back_at_any_size(
    height: int, width: int, pattern: str, colour: tuple[int, int, int]
) -> None:
    flat = np.full((height, width, 3), colour, dtype=np.uint8)
    assert (demosaic_malvar(mosaic(flat, pattern), pattern) == flat).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_measured_values_are_kept(rng: np.random.Generator, pattern: str) -> None:
    measured = mosaic(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), pattern)
    restored = demosaic_malvar(measured, pattern)
    assert restored.dtype == np.uint8
    assert (mosaic(restored, pattern) == measured).all()


def test_the_filters_are_malvars() -> None:
    # What one red and one green pixel contribute, in eighths (fig. 2 of the paper).
    def response(row: int, column: int) -> np.ndarray:
        image = np.zeros((12, 12))
        image[row, column] = 8
        return demosaic_malvar(image)

    red = response(4, 4)
    assert red[4, 2:7:2].tolist() == [[0, -1, -1.5], [8, 4, 6], [0, -1, -1.5]]  # at red pixels
    assert red[4, 3:6:2].tolist() == [[4, 0, 0], [4, 0, 0]]  # at green ones in red's row
    assert red[3, 3].tolist() == [2, 0, 0]  # at a blue one
    green = response(4, 5)
    assert green[4, 5].tolist() == [5, 8, 5]
    assert green[4, 4].tolist() == [0, 2, 0]
    assert green[4, 3].tolist() == [-1, 0, 0.5]
    assert green[2, 5].tolist() == [0.5, 0, -1]
    assert green[3, 4].tolist() == [-1, 0, -1]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_smooth_ramps_are_reproduced(pattern: str) -> None:
    ramp = np.indices((16, 16)).sum(axis=0)[..., None] * np.array([1.0, 1.0, 1.0]) + np.array([5.0, 0.0, 9.0])
    inside = np.s_[4:-4, 4:-4]
    assert demosaic_malvar(mosaic(ramp, pattern), pattern)[inside] == pytest.approx(ramp[inside])


def test_an_unknown_pattern_is_named() -> None:
    with pytest.raises(ValueError, match="unknown Bayer pattern 'rgb'"):
        mosaic(np.zeros((2, 2, 3)), "rgb")


def test_published_demosaicking_row(standard_images: Callable[[str], Path]) -> None:
    measured = []
    for path in sorted(standard_images("Kodak24").glob("*.png")):
        clean = read_image(path)
        measured.append(psnr(demosaic_malvar(mosaic(clean)), clean, border=10))
    assert np.mean(measured) == pytest.approx(35.78, abs=0.05)
