"""The mosaic's phase and the small image's size."""

import numpy as np
import pytest

from kgt.imaging import imresize
from pipelines.degradations import degrade_image, settings_of


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "grbg", "gbrg"])
def test_a_mosaic_pixel_is_one_channel_of_the_image(pattern: str, photo: np.ndarray, rng: np.random.Generator) -> None:
    pair = degrade_image("demosaic", photo, settings_of("demosaic", {"pattern": pattern}), rng)
    for index, colour in enumerate(pattern):
        row, column = divmod(index, 2)
        assert np.array_equal(pair.degraded[row::2, column::2], photo[row::2, column::2, "rgb".index(colour)])


def test_sensor_noise_is_added_to_the_mosaic(rng: np.random.Generator) -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    noisy = degrade_image("demosaic", gray, settings_of("demosaic", {"sigma": 10}), rng).degraded
    assert noisy.astype(float).std() == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_sr_crops_to_a_multiple_then_shrinks(scale: int, photo: np.ndarray, rng: np.random.Generator) -> None:
    pair = degrade_image("sr", photo, settings_of("sr", {"scale": scale}), rng)
    height, width = 157 // scale * scale, 203 // scale * scale
    assert np.array_equal(pair.clean, photo[:height, :width])
    assert np.array_equal(pair.degraded, imresize(photo[:height, :width], 1 / scale))
