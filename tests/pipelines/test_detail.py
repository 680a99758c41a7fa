"""Flat blocks and sharpness, against their definitions written out."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.imaging import read_image, to_gray
from pipelines import detail
from pipelines.sample import sample_photographs

sizes = st.integers(16, 110)


@given(sizes, sizes, st.integers(0, 2**32 - 1))
def test_a_block_is_flat_by_its_standard_deviation(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    deviations = rng.uniform(0, 5, (4, 4)).repeat(32, 0).repeat(32, 1)[:height, :width]
    luma = np.clip(rng.uniform(0, 255) + deviations * rng.standard_normal((height, width)), 0, 255).astype(np.uint8)
    found = detail.detail_map(luma)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            block = luma[32 * row : 32 * row + 32, 32 * column : 32 * column + 32].astype(np.float64)
            assert block.size
            assert found[row, column] == (block.var() >= 4)
    packed = detail.pack(found)
    assert np.array_equal(detail.unpack(packed, height, width), found)
    assert len(packed) <= -(-found.size // 8)


def test_most_of_a_photograph_takes_no_room() -> None:
    assert detail.pack(np.ones((3, 5), bool)) == b""
    assert not detail.unpack(detail.pack(np.zeros((3, 5), bool)), 96, 160).any()


def test_luma_is_that_of_bt601() -> None:
    image = read_image(sample_photographs("val")[0])
    full_swing = (to_gray(image).astype(float) - 16) * 255 / 219
    assert np.abs(detail.luma_of(image) - full_swing).max() < 1.2
    assert detail.luma_of(image[:, :, 0]) is not image
    assert np.array_equal(detail.luma_of(image[:, :, 0]), image[:, :, 0])


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    luma = detail.luma_of(read_image(sample_photographs("val")[0]))
    signed = luma.astype(float)
    padded = np.pad(signed, 1, "reflect")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    assert detail.sharpness(luma) == pytest.approx((around - 4 * signed).var())
    blurred = [detail.sharpness(cv2.GaussianBlur(luma, (0, 0), sigma)) for sigma in (1, 2, 4)]
    assert detail.sharpness(luma) > blurred[0] > blurred[1] > blurred[2]
