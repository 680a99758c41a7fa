"""Patches: aligned, paired, in phase, deterministic."""

import numpy as np
import pytest

from kgt.errors import UserError
from kgt.imaging import mosaic
from pipelines.degradations import degrade_image, settings_of
from pipelines.shards import Pair
from training.augment import SYMMETRIES, planes, training_patch
from training.order import rng_of


def pair_of(task: str, rng: np.random.Generator, side: int = 32) -> Pair:
    clean = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    made = degrade_image(task, clean, settings_of(task, {}), rng)
    return Pair("key", made.clean, made.degraded, {"parameters": made.parameters})


def identical(task: str, rng: np.random.Generator, scale: int = 1) -> Pair:
    """A pair whose degraded image is the clean one (or every scale-th pixel of it), so that alignment can be seen."""
    clean = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return Pair("key", clean, clean[::scale, ::scale], {"parameters": {}})


@pytest.mark.parametrize("task", ["deblur", "jpeg", "weather", "denoise"])
def test_clean_and_degraded_are_cropped_and_turned_alike(task: str, rng: np.random.Generator) -> None:
    pair = identical(task, rng)
    for index in range(40):
        degraded, clean = training_patch(task, pair, 16, rng_of(index))
        np.testing.assert_array_equal(degraded, clean)


def test_super_resolution_is_aligned_by_its_scale(rng: np.random.Generator) -> None:
    pair = Pair("key", np.zeros((48, 48, 3), np.uint8), np.zeros((16, 16, 3), np.uint8), {})
    y, x = np.mgrid[0:48, 0:48]
    pair.clean[..., 0], pair.clean[..., 1] = y // 3, x // 3
    pair.degraded[..., 0], pair.degraded[..., 1] = np.mgrid[0:16, 0:16]
    for index in range(40):
        degraded, clean = training_patch("sr", pair, 8, rng_of(index))
        assert clean.shape == (3, 24, 24)
        np.testing.assert_array_equal(clean[:, ::3, ::3], degraded)


def test_all_eight_symmetries_occur_and_all_corners(rng: np.random.Generator) -> None:
    pair = identical("deblur", rng)
    seen = {training_patch("deblur", pair, 48, rng_of(i))[1].tobytes() for i in range(200)}
    assert len(seen) == len(SYMMETRIES) == 8
    marked = np.zeros((20, 20, 3), np.uint8)
    marked[0, 0] = marked[-1, -1] = 255
    pair = Pair("key", marked, marked, {"parameters": {}})
    sums = {float(training_patch("deblur", pair, 16, rng_of(i))[1].sum()) for i in range(200)}
    assert sums == {0.0, 3.0}


def test_weather_is_only_ever_mirrored_left_to_right(rng: np.random.Generator) -> None:
    pair = identical("weather", rng)
    upright = planes(pair.clean, 3)
    seen = {training_patch("weather", pair, 48, rng_of(i))[1].tobytes() for i in range(60)}
    assert seen == {upright.tobytes(), np.ascontiguousarray(upright[:, :, ::-1]).tobytes()}


def test_a_mosaic_keeps_its_phase(rng: np.random.Generator) -> None:
    pair = pair_of("demosaic", rng)
    for index in range(40):
        degraded, clean = training_patch("demosaic", pair, 16, rng_of(index))
        assert degraded.shape == (1, 16, 16)
        pixels = np.rint(clean.transpose(1, 2, 0) * 255).astype(np.uint8)
        np.testing.assert_array_equal(np.rint(degraded[0] * 255), mosaic(pixels))


def test_a_given_mosaic_is_taken_as_it_is(rng: np.random.Generator) -> None:
    clean = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    real = np.clip(mosaic(clean).astype(int) + rng.integers(-9, 10, (32, 32)), 0, 255).astype(np.uint8)
    pair = Pair("key", clean, real, {"parameters": {"pattern": "rggb"}, "paired": True})
    for index in range(40):
        degraded, upright = training_patch("demosaic", pair, 16, rng_of(index))
        (top,), (left,) = np.nonzero(
            [[np.array_equal(planes(real[y : y + 16, x : x + 16], 1), degraded) for x in range(17)] for y in range(17)]
        )
        assert top % 2 == left % 2 == 0
        np.testing.assert_array_equal(planes(clean[top : top + 16, left : left + 16], 3), upright)


def test_gray_pairs_become_replicas(rng: np.random.Generator) -> None:
    gray = rng.integers(0, 256, (20, 20), dtype=np.uint8)
    degraded, clean = training_patch("jpeg", Pair("key", gray, gray, {"parameters": {}}), 16, rng)
    assert degraded.shape == clean.shape == (3, 16, 16)
    assert (clean == clean[0]).all()


def test_noise_is_neither_clipped_nor_rounded(rng: np.random.Generator) -> None:
    degraded, _ = training_patch("denoise", pair_of("denoise", rng), 32, rng, settings_of("denoise", {"sigma": 50}))
    assert degraded.min() < 0
    assert degraded.max() > 1


def test_the_same_generator_gives_the_same_patch(rng: np.random.Generator) -> None:
    pair, redraw = pair_of("denoise", rng), settings_of("denoise", {})
    first, again, other = (training_patch("denoise", pair, 16, rng_of(n), redraw)[0] for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_pair_smaller_than_the_patch_says_what_fits(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match=r"patch=64.*32x32.*patch=32"):
        training_patch("jpeg", pair_of("jpeg", rng), 64, rng)
