"""Rain, snow and drops: what each does to a picture that is easy to reason about."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kgt.imaging import psnr
from pipelines.degradations import degrade_image, settings_of
from pipelines.degradations.frame import Frame
from pipelines.degradations.weather import fields, rain, raindrop, snow


def weathered(image: np.ndarray, seed: int = 0, **changes: object) -> np.ndarray:
    return degrade_image("weather", image, settings_of("weather", changes), np.random.default_rng(seed)).degraded


def test_the_veil_takes_contrast_most_in_the_distance(photo: np.ndarray, rng: np.random.Generator) -> None:
    board = np.where((np.indices((200, 300)).sum(axis=0) // 4 % 2 == 0)[..., None], 220, 30).astype(np.uint8)
    board = np.repeat(board, 3, axis=2)
    veiled = weathered(board, kind="rain", streaks=0, fog=2, airlight=0.6).astype(float)
    top, bottom = veiled[:40].std(), veiled[-40:].std()
    assert top < bottom < board.std()
    assert veiled[:40].mean() == pytest.approx(0.6 * 255, abs=20)


def test_depth_lies_in_its_range_and_grows_upward(photo: np.ndarray, rng: np.random.Generator) -> None:
    depth = rain.depth(photo.astype(np.float32) / 255, rng, Frame(*photo.shape[:2]))
    assert depth.shape == photo.shape[:2]
    assert 0.2 <= depth.min() < depth.max() <= 1.2
    assert depth[:20].mean() > depth[-20:].mean()


@pytest.mark.parametrize("angle", [-25.0, 0.0, 25.0])
def test_streaks_fall_along_the_wind(angle: float, rng: np.random.Generator) -> None:
    layer = rain.streaks(rng, (300, 300), angle, 1.0)
    assert layer.min() >= 0
    assert layer.std() == pytest.approx(1, rel=1e-4)
    down, right = np.gradient(cv2.GaussianBlur(layer, (0, 0), 1.5))
    # The structure tensor's weakest direction is that of the streaks.
    tensor = np.array([[np.sum(down * down), np.sum(down * right)], [np.sum(down * right), np.sum(right * right)]])
    along = np.linalg.eigh(tensor)[1][:, 0]
    assert np.degrees(np.arctan(along[1] / along[0])) == pytest.approx(angle, abs=4)


def test_rain_only_adds_light_where_there_is_no_fog(photo: np.ndarray) -> None:
    wet = weathered(photo, kind="rain", fog=0, streaks=15)
    assert (wet >= photo).all()
    assert (wet > photo).mean() > 0.3


def test_snow_covers_about_its_share(rng: np.random.Generator) -> None:
    for share in (0.03, 0.15):
        covers = [snow.flakes(rng, (300, 400), share, 10.0, 0.8).mean() for _ in range(6)]
        assert share * 0.3 < np.mean(covers) < share


def test_snow_whitens(photo: np.ndarray) -> None:
    dark = photo // 3
    snowy = weathered(dark, kind="snow", fog=0, flakes=0.15)
    assert snowy.mean() > dark.mean() + 5
    assert snowy.max() > 180


def test_glass_without_drops_is_clear(photo: np.ndarray) -> None:
    assert np.abs(weathered(photo, kind="raindrop", drops=0).astype(int) - photo).max() <= 1


def test_a_drop_bends_the_view_and_leaves_the_rest(rng: np.random.Generator) -> None:
    """Upper half dark, lower half bright: inside a drop on the border the view is flipped."""
    scene = np.zeros((200, 200, 3), np.float32)
    scene[100:] = 0.8
    surface, radius = np.zeros((200, 200), np.float32), np.zeros((200, 200), np.float32)
    raindrop._merge(surface, radius, 100, 100, 40)
    assert surface[100, 100] == surface.max() > 0
    assert surface[100, 145] == 0
    assert radius[100, 100] == 40
    assert surface[140, 100] > surface[60, 100]  # it sags

    shown = raindrop.refract(scene, surface, radius, defocus=1.0, sky=0.0, light=(5.0, 5.0))
    assert np.abs(shown[:40] - scene[:40]).max() < 1e-3
    assert shown[75, 100, 0] > shown[125, 100, 0] + 0.2


def test_guided_smoothing_follows_the_guide(rng: np.random.Generator) -> None:
    guide = np.zeros((64, 64), np.float32)
    guide[:, 32:] = 1
    noisy = guide + 0.3 * rng.standard_normal((64, 64)).astype(np.float32)
    smooth = fields.guided(noisy, guide, 8, 1e-4)
    assert np.abs(smooth - guide)[:, 30:34].mean() < 0.15
    assert np.abs(smooth - guide).std() < 0.1


def test_input_psnr_is_that_of_the_published_pairs(standard_images: Callable[[str], Path]) -> None:
    """Published: Outdoor-Rain inputs 10–17 dB, RainDrop 14–21; Snow100K-L is near 18 on average."""
    folder = standard_images("pairs")
    clean = [
        np.asarray(Image.open(path))
        for name in ("OutdoorRain", "RainDrop")
        for path in (folder / name / "gt").iterdir()
    ]
    for kind, low, high in (("rain", 10, 17), ("raindrop", 13, 21), ("snow", 15, 21)):
        figures = [psnr(weathered(image, seed, kind=kind), image) for image in clean for seed in range(2)]
        assert low < np.median(figures) < high, kind
        assert low - 3 < min(figures), kind
        assert max(figures) < high + 5, kind
