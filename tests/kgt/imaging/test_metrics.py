import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kgt.imaging import psnr, rgb_to_y, score, ssim
from kgt.tasks import Protocol


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    clean = np.kron(rng.integers(0, 256, (8, 9, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    noisy = (clean + rng.normal(0, 20, clean.shape)).clip(0, 255).astype(np.uint8)
    return noisy, clean


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-image's, of one channel, over the valid region alone."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    _, values = structural_similarity(a, b, full=True, **options)
    return values[5:-5, 5:-5].mean()


def test_psnr_is_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert psnr(*pair) == pytest.approx(peak_signal_noise_ratio(pair[1], pair[0], data_range=255))


def test_psnr_of_equal_images_is_infinite(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert psnr(pair[0], pair[0]) == math.inf


def test_uint8_differences_do_not_wrap() -> None:
    black, white = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0


def test_ssim_is_scikit_images_on_every_channel(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert ssim(a, b) == pytest.approx(np.mean([reference_ssim(a[..., c], b[..., c]) for c in range(3)]), abs=1e-9)
    assert ssim(a[..., 0], b[..., 0]) == pytest.approx(reference_ssim(a[..., 0], b[..., 0]), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1)


def test_luma_is_compared_unrounded(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = map(rgb_to_y, pair)
    assert psnr(*pair, space="y") == pytest.approx(10 * math.log10(255**2 / np.mean((a - b) ** 2)))
    assert ssim(*pair, space="y") == pytest.approx(reference_ssim(a, b), abs=1e-9)


def test_the_border_is_cut_off_first(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    inside = np.s_[3:-3, 3:-3]
    assert psnr(a, b, border=3) == psnr(a[inside], b[inside])
    assert ssim(a, b, border=3) == ssim(a[inside], b[inside])


def test_a_protocol_is_followed(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert score(a, b, Protocol("y", "scale"), scale=4) == (
        psnr(a, b, space="y", border=4),
        ssim(a, b, space="y", border=4),
    )
    assert score(a, b, Protocol(border=10)) == (psnr(a, b, border=10), ssim(a, b, border=10))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        psnr(np.zeros((8, 8)), np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="leaves nothing"):
        psnr(np.zeros((8, 8)), np.zeros((8, 8)), border=4)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(np.zeros((10, 20)), np.zeros((10, 20)))
