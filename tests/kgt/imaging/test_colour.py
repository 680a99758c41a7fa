import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.imaging import linear_to_srgb, rgb_to_y, srgb_to_linear, to_gray, to_rgb


@given(st.integers(0, 255))
def test_the_srgb_curve_comes_back(value: int) -> None:
    encoded = np.array([value / 255])
    assert linear_to_srgb(srgb_to_linear(encoded)) == pytest.approx(encoded, abs=1e-12)


def test_the_srgb_curve_is_that_of_the_standard() -> None:
    assert srgb_to_linear(np.array([0.0, 0.04045, 0.5, 1.0])) == pytest.approx(
        [0.0, 0.0031308, 0.2140411, 1.0], abs=1e-6
    )


def test_the_srgb_curve_keeps_the_type_and_what_lies_outside() -> None:
    outside = np.array([-0.1, 1.2], dtype=np.float32)
    linear = srgb_to_linear(outside)
    assert linear.dtype == np.float32
    assert linear[0] < 0 < 1 < linear[1]
    assert linear_to_srgb(linear) == pytest.approx(outside, abs=1e-6)


@pytest.mark.parametrize(
    ("rgb", "luma"),
    [((0, 0, 0), 16.0), ((255, 255, 255), 235.0), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
)
def test_luma_is_matlabs(rgb: tuple[int, int, int], luma: float) -> None:
    assert rgb_to_y(np.array([[rgb]], dtype=np.uint8)) == pytest.approx(np.array([[luma]]))


def test_gray_counts_as_its_replica(rng: np.random.Generator) -> None:
    gray = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    assert rgb_to_y(gray) == pytest.approx(rgb_to_y(to_rgb(gray)))


def test_gray_of_colour_is_rounded_luma_and_gray_passes() -> None:
    assert to_gray(np.array([[[255, 0, 0]]], dtype=np.uint8)).tolist() == [[81]]
    gray = np.array([[200]], dtype=np.uint8)
    assert to_gray(gray) is gray
    assert to_rgb(gray).tolist() == [[[200, 200, 200]]]
