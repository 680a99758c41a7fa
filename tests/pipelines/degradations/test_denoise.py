"""Noise of the right size, neither clipped nor rounded."""

import numpy as np
import pytest

from kgt.imaging import srgb_to_linear
from pipelines.degradations import degrade_image, settings_of
from pipelines.degradations.values import each


@pytest.mark.parametrize("sigma", [0, 15, 50])
def test_gaussian_noise_has_its_sigma_everywhere(sigma: int, rng: np.random.Generator) -> None:
    clean = np.repeat(np.array([0, 128, 255], np.uint8), 40_000).reshape(300, 400)
    noise = degrade_image("denoise", clean, settings_of("denoise", {"sigma": sigma}), rng).degraded * 255 - clean
    for level in (0, 128, 255):
        assert noise[clean == level].std() == pytest.approx(sigma, rel=0.02)
        assert noise[clean == level].mean() == pytest.approx(0, abs=0.02 * sigma + 1e-4)


@pytest.mark.parametrize("level", [40, 120, 230])
def test_camera_noise_grows_with_light(level: int, rng: np.random.Generator) -> None:
    a, b = 1e-3, 5e-3
    asked = settings_of("denoise", {"noise": "camera", "a": a, "b": b})
    noisy = degrade_image("denoise", np.full((400, 400), level, np.uint8), asked, rng).degraded
    linear = float(srgb_to_linear(np.array(level / 255)))
    measured = srgb_to_linear(noisy.astype(np.float64))
    assert measured.mean() == pytest.approx(linear, abs=1e-3)
    assert measured.var() == pytest.approx(a * linear + b**2, rel=0.05)


def test_parameters_are_those_of_the_noise_drawn(rng: np.random.Generator) -> None:
    gaussian = degrade_image("denoise", np.zeros((16, 16), np.uint8), settings_of("denoise", {}), rng).parameters
    assert set(gaussian) == {"noise", "gray", "sigma"}
    camera = settings_of("denoise", {"noise": "camera"})
    assert set(degrade_image("denoise", np.zeros((16, 16), np.uint8), camera, rng).parameters) == {
        "noise",
        "gray",
        "a",
        "b",
    }


def test_rows_are_those_of_the_noise_drawn() -> None:
    camera = {"noise": "camera"}
    assert [label for label, _ in each(settings_of("denoise", camera, evaluation=True), camera)] == ["noise=camera"]
    both = {"noise": ["gaussian", "camera"], "sigma": [15, 25]}
    labels = [label for label, _ in each(settings_of("denoise", both), both)]
    assert labels == ["noise=gaussian sigma=15", "noise=gaussian sigma=25", "noise=camera"]
