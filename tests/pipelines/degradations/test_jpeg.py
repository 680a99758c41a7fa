"""JPEG against Pillow itself, and its grids."""

import io

import numpy as np
from PIL import Image

from kgt.imaging import to_gray
from pipelines.degradations import degrade_image, jpeg, settings_of


def test_the_quality_is_exact_and_colour_is_420(photo: np.ndarray, rng: np.random.Generator) -> None:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=23, subsampling=2)
    pair = degrade_image("jpeg", photo, settings_of("jpeg", {"quality": 23}), rng)
    assert np.array_equal(pair.degraded, np.asarray(Image.open(file)))


def test_gray_is_converted_before_compression(photo: np.ndarray, rng: np.random.Generator) -> None:
    asked = settings_of("jpeg", {"quality": 10, "gray": True})
    from_colour, from_gray = degrade_image("jpeg", photo, asked, rng), degrade_image("jpeg", to_gray(photo), asked, rng)
    assert np.array_equal(from_colour.clean, to_gray(photo))
    assert np.array_equal(from_colour.degraded, from_gray.degraded)


def test_the_first_of_two_compressions_is_on_its_own_grid(photo: np.ndarray) -> None:
    """Compressed once, the 8×8 blocks' steps lie on multiples of 8; twice, the first grid's steps lie `shift` away."""
    gray = to_gray(photo)
    rng = np.random.default_rng(0)
    twice = jpeg.degrade(gray, rng, {"quality": 95, "first_quality": 5, "shift_y": 3, "shift_x": 3})
    steps = np.abs(np.diff(twice.astype(float), axis=1)).mean(axis=0)[:200]
    by_column = [steps[phase::8].mean() for phase in range(8)]  # step between columns phase and phase + 1
    assert int(np.argmax(by_column)) == 4  # a block of the first grid ends before column 5 = 8 − 3


def test_doubles_come_in_the_share_asked(rng: np.random.Generator) -> None:
    asked = settings_of("jpeg", {"double": 0.25})
    drawn = [jpeg.draw(asked, rng) for _ in range(2000)]
    doubles = [parameters for parameters in drawn if "first_quality" in parameters]
    assert abs(len(doubles) / 2000 - 0.25) < 0.04
    assert {parameters["shift_x"] for parameters in doubles} == set(range(1, 8))
    assert {parameters["quality"] for parameters in drawn} == set(range(10, 41))
