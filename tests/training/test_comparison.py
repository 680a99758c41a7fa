"""The paired comparison: against what statistics says of it, and against tricks of the images."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.comparison import clean_images, images_needed, paired
from training.evaluation import Row


def row(psnr: list[float], images: str = "a", setting: str = "s", each: int = 1) -> Row:
    """each: how many degraded images there are of one clean one."""
    before = [20.0] * len(psnr)
    each = [{"image": str(n), "clean": str(n // each), "psnr": p, "input_psnr": 20.0} for n, p in enumerate(psnr)]
    means = (float(np.mean(before)), 0.5, float(np.mean(psnr)), 0.5)
    return Row("denoise", images, setting, "m", len(psnr), *means, 0.0, per_image=each)


def test_a_gain_that_all_images_share_is_sure_and_one_that_few_make_is_not() -> None:
    base = list(np.linspace(20, 40, 20))
    rival = [row(base)]
    shared = paired([row([p + 0.1 for p in base])], rival, "psnr", 0.95)
    assert shared.mean == pytest.approx(0.1)
    assert shared.least == pytest.approx(0.1)  # the images' own differences, far larger, do not count
    few = paired([row([base[0] + 2.0, *base[1:]])], rival, "psnr", 0.95)
    assert few.mean == pytest.approx(0.1)
    assert few.least <= 0


def test_the_bound_is_that_of_the_normal_distribution_where_images_are_many(rng: np.random.Generator) -> None:
    gains = rng.normal(0.1, 0.3, 400)
    found = paired([row(list(30 + gains))], [row([30.0] * 400)], "psnr", 0.95)
    assert found.least == pytest.approx(gains.mean() - 1.645 * gains.std() / 20, abs=0.003)


@pytest.mark.parametrize("sets", [(5,), (24,), (5, 12)])
@pytest.mark.parametrize("heavy", [False, True])
def test_the_confidence_is_kept(sets: tuple[int, ...], heavy: bool, rng: np.random.Generator) -> None:
    """Of models that are no better at all, about the twentieth that was asked for look better, also on few images."""

    def gains(images: int) -> np.ndarray:
        return 0.3 * (rng.standard_t(3, images) if heavy else rng.normal(size=images))

    looks = []
    for _ in range(400):
        ours = [row(list(30 + gains(images)), images=str(number)) for number, images in enumerate(sets)]
        theirs = [row([30.0] * images, images=str(number)) for number, images in enumerate(sets)]
        looks.append(paired(ours, theirs, "psnr", 0.95).least > 0)
    assert 0.015 < np.mean(looks) < 0.075


def test_of_sets_of_one_image_nothing_follows() -> None:
    found = paired([row([20.5], images="a"), row([19.9], images="b")], None, "psnr", 0.95)
    assert found.mean == pytest.approx(0.2)
    assert found.least == -math.inf


@pytest.mark.parametrize(("confidence", "needed"), [(0.5, 2), (0.75, 2), (0.9, 4), (0.95, 5), (0.99, 7)])
def test_as_many_images_are_needed_as_rarely_agree_by_chance(confidence: float, needed: int) -> None:
    assert images_needed(confidence) == needed
    assert 0.5**needed <= 1 - confidence


@settings(max_examples=25)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=12), st.floats(-1, 1), st.integers(2, 4))
def test_more_settings_of_the_same_images_are_no_more_evidence(gains: list[float], shift: float, times: int) -> None:
    ours, theirs = [30 + g for g in gains], [30.0] * len(gains)
    once = paired([row(ours)], [row(theirs)], "psnr", 0.9)
    often = paired([row(ours)] * times, [row(theirs)] * times, "psnr", 0.9)
    assert often.least == pytest.approx(once.least)
    assert once.least <= once.mean + 1e-9
    moved = paired([row([p + shift for p in ours])], [row(theirs)], "psnr", 0.9)
    assert moved.least == pytest.approx(once.least + shift)


@settings(max_examples=25)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=12), st.integers(2, 15))
def test_more_degraded_images_of_the_same_clean_ones_are_no_more_evidence(gains: list[float], times: int) -> None:
    ours = [30 + gain for gain in gains for _ in range(times)]
    once = paired([row([30 + gain for gain in gains])], [row([30.0] * len(gains))], "psnr", 0.9)
    often = paired([row(ours, each=times)], [row([30.0] * len(ours), each=times)], "psnr", 0.9)
    assert often.least == pytest.approx(once.least)
    assert often.images == once.images == clean_images(row(ours, each=times)) == len(gains)


def test_without_a_rival_the_input_is_and_every_set_counts_alike() -> None:
    rows = [row([22.0, 22.0]), row([21.0] * 8, images="b")]
    found = paired(rows, None, "psnr", 0.95)
    assert (found.mean, found.least, found.images) == (1.5, 1.5, 10)
