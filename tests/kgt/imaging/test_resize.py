from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kgt.imaging import crop_to_multiple, imresize, psnr, read_image, to_rgb


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4])
def test_shrinking_is_torchs_antialiased_bicubic_with_symmetric_borders(rng: np.random.Generator, scale: float) -> None:
    image = rng.random((36, 48, 3))
    border = 24
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="symmetric")
    planes = torch.from_numpy(padded).permute(2, 0, 1)[None]
    whole = torch.nn.functional.interpolate(planes, scale_factor=scale, mode="bicubic", antialias=True)
    cut = round(border * scale)
    expected = whole[0, :, cut:-cut, cut:-cut].permute(1, 2, 0).numpy()
    assert imresize(image, scale) == pytest.approx(expected, abs=1e-6)


def test_enlarging_interpolates_by_keys_kernel() -> None:
    impulse = np.zeros((9, 9))
    impulse[:, 4] = 128
    # Keys' kernel (a = -1/2) at 1.75, 1.25, 0.75 and 0.25 pixels, in units of 1/128, and back.
    side = [-3, -9, 29, 111]
    assert imresize(impulse, 2)[0].tolist() == [0] * 5 + side + side[::-1] + [0] * 5


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0]),
    st.integers(0, 255),
)
def test_a_flat_image_stays_flat_at_any_size(height: int, width: int, scale: float, value: int) -> None:
    resized = imresize(np.full((height, width, 3), value, dtype=np.uint8), scale)
    assert resized.shape == (int(np.ceil(height * scale)), int(np.ceil(width * scale)), 3)
    assert resized.dtype == np.uint8
    assert (resized == value).all()


def test_types_stay_and_only_integers_are_clipped(rng: np.random.Generator) -> None:
    steps = np.tile(np.repeat([0, 255], 8), (16, 1)).astype(np.uint8)
    assert imresize(steps.astype(np.float32), 2).dtype == np.float32
    assert imresize(steps.astype(np.float64), 2).min() < -1
    assert imresize(steps, 2)[0, 0] == 0
    assert imresize(rng.random((4, 6)), 1.0).shape == (4, 6)


def test_halves_round_up_as_in_matlab() -> None:
    checks = np.indices((8, 8)).sum(axis=0) % 2
    assert (imresize((checks * 255).astype(np.uint8), 1 / 2)[2:-2, 2:-2] == 128).all()


def test_cropping_to_a_multiple() -> None:
    assert crop_to_multiple(np.zeros((11, 7, 3)), 4).shape == (8, 4, 3)
    with pytest.raises(ValueError, match="multiple of 8"):
        crop_to_multiple(np.zeros((11, 7, 3)), 8)


def test_published_bicubic_rows(standard_images: Callable[[str], Path]) -> None:
    published = {("Set5", 2): 33.68, ("Set5", 3): 30.40, ("Set5", 4): 28.43}
    published |= {("Set14", 2): 30.33, ("Set14", 3): 27.63, ("Set14", 4): 26.09}
    for (name, scale), expected in published.items():
        measured = []
        for path in sorted(standard_images(name).glob("*.png")):
            clean = crop_to_multiple(to_rgb(read_image(path)), scale)
            measured.append(psnr(imresize(imresize(clean, 1 / scale), scale), clean, space="y", border=scale))
        assert np.mean(measured) == pytest.approx(expected, abs=0.02)
