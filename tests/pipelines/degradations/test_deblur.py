"""Camera shake: the trajectory, its homographies, the light it adds up."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kgt.imaging import psnr
from pipelines.degradations import deblur, degrade_image, settings_of
from pipelines.degradations.frame import Frame

QUIET = {"shot": 1e-9, "read": 1e-9}
POINTS = np.stack([*(axis.ravel() for axis in np.meshgrid([0.0, 320, 639], [0.0, 240, 479])), np.ones(9)])


def paths(warps: np.ndarray) -> np.ndarray:
    """Where nine points of the frame come from in every sub-frame: (n, 2, 9)."""
    moved = warps @ POINTS
    return moved[:, :2] / moved[:, 2:]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(1, 80), st.floats(0.8, 2))
def test_no_pixel_moves_farther_than_the_path_nor_jumps(seed: int, path: float, focal: float) -> None:
    warps, dwell = deblur.exposure(np.random.default_rng(seed), Frame(480, 640), path, focal)
    steps = np.linalg.norm(np.diff(paths(warps), axis=0), axis=1)
    assert steps.max() <= 1.05
    lengths = steps.sum(axis=0)
    assert lengths.max() <= 1.02 * path + 0.05  # pixels: the path is measured on a grid, at sub-frames
    assert lengths.max() >= 0.6 * path  # a chord cuts the corners of a jerky path
    assert dwell.sum() == pytest.approx(1)
    assert dwell.min() >= 0


def test_the_target_is_the_view_at_mid_exposure() -> None:
    """Some sub-frame is (nearly) the sharp image, with as much of the exposure before it as after it."""
    for seed in range(5):
        warps, dwell = deblur.exposure(np.random.default_rng(seed), Frame(480, 640), 30.0, 1.2)
        away = np.linalg.norm(paths(warps) - POINTS[:2], axis=1).max(axis=1)
        nearest = int(np.argmin(away))
        assert away[nearest] < 0.6
        assert dwell[:nearest].sum() < 0.5 + dwell[nearest]
        assert dwell[nearest + 1 :].sum() < 0.5 + dwell[nearest]


def test_blur_differs_over_the_image() -> None:
    warps, _ = deblur.exposure(np.random.default_rng(0), Frame(480, 640), 40.0, 1.0)
    extent = np.ptp(paths(warps), axis=0)
    assert np.linalg.norm(extent[:, 0] - extent[:, 8]) > 1


@pytest.mark.parametrize("space", ["encoded", "linear"])
def test_a_flat_image_stays_as_it_is(space: str, rng: np.random.Generator) -> None:
    flat = np.full((60, 80, 3), (200, 90, 20), np.uint8)
    degraded = degrade_image("deblur", flat, settings_of("deblur", {"space": space, **QUIET}), rng).degraded
    assert np.abs(degraded.astype(int) - flat).max() <= 1


def test_highlights_outshine_their_surroundings_in_linear_light() -> None:
    """A small lamp leaves a bright trail: blurred in linear light with a highlight gain it is brighter than without."""
    dark = np.full((120, 160, 3), 30, np.uint8)
    dark[55:60, 75:80] = 255
    trails = [
        degrade_image("deblur", dark, settings_of("deblur", {"path": 150, **QUIET} | kind), np.random.default_rng(4))
        .degraded.astype(float)
        .sum()
        for kind in ({"space": "encoded"}, {"space": "linear", "highlight": 1}, {"space": "linear", "highlight": 4})
    ]
    assert trails[0] < trails[1] < trails[2]


def test_read_noise_is_there(rng: np.random.Generator) -> None:
    flat = np.full((100, 100, 3), 128, np.uint8)
    noisy = degrade_image("deblur", flat, settings_of("deblur", {"shot": 1e-3, "read": 1e-3}), rng).degraded
    assert 2 < noisy.astype(float).std() < 8


def test_input_psnr_is_that_of_the_published_pairs(standard_images: Callable[[str], Path]) -> None:
    """GoPro's pairs here are 20.3–23.6 dB, the mean of its full test set 25.6."""
    sharp = np.asarray(Image.open(standard_images("pairs") / "GoPro" / "sharp" / "sharp_01.png"))[100:580, 300:940]
    figures = [
        psnr(degrade_image("deblur", sharp, settings_of("deblur", {}), np.random.default_rng(seed)).degraded, sharp)
        for seed in range(12)
    ]
    assert 20 < np.median(figures) < 27
    assert min(figures) > 15
