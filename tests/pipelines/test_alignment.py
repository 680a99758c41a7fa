"""Pairs that do not fit are told from those that do, whatever degraded them."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from kgt.imaging import imresize, list_images, mosaic, read_image
from pipelines.alignment import PairCheck, check_frames, shift_of
from pipelines.degradations import degrade_image, settings_of
from pipelines.detail import luma_of
from pipelines.pairing import pair_check
from pipelines.sample import PHOTOGRAPHS

PHOTOS = [read_image(photo.path) for photo in PHOTOGRAPHS if photo.file in ("chelsea.png", "coffee.png", "china.jpg")]


def noisy(image: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(image + rng.normal(0, 50, image.shape), 0, 255).astype(np.uint8)


def degraded(task: str, image: np.ndarray, **changes: object) -> np.ndarray:
    return degrade_image(task, image, settings_of(task, changes), np.random.default_rng(1)).degraded


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda image: image,
    "blur": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
    "noise": noisy,
    "jpeg": lambda image: degraded("jpeg", image, quality=10),
    "rain": lambda image: degraded("weather", image, kind="rain"),
    "snow": lambda image: degraded("weather", image, kind="snow"),
    "raindrop": lambda image: degraded("weather", image, kind="raindrop"),
    "mosaic": lambda image: mosaic(image, "rggb"),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_shift_is_found_under_what_degrades(way: str) -> None:
    for number, photo in enumerate(PHOTOS):
        bad = luma_of(WAYS[way](photo))
        assert shift_of(luma_of(photo), bad) is None
        down, right = [(2, 0), (-3, 11), (0, -2)][number]
        moved = np.roll(bad, (down, right), (0, 1))
        assert shift_of(luma_of(photo), moved) == (down, right)


def test_nothing_is_said_of_blur_or_of_what_has_no_structure() -> None:
    for number, photo in enumerate(PHOTOS):
        rng = np.random.default_rng(number)
        for _ in range(4):
            pair = degrade_image("deblur", photo, settings_of("deblur", {}), rng)
            assert PairCheck("deblur")(pair.clean, [pair.degraded]) is None
        strong = cv2.GaussianBlur(photo, (0, 0), 6)
        assert shift_of(luma_of(photo), luma_of(strong)) is None
    stripes = np.tile(np.array([0, 0, 0, 0, 255, 255, 255, 255], np.uint8), (128, 16))
    flat = np.full((64, 64), 9, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (2, 128, 128), dtype=np.uint8)
    assert shift_of(stripes, np.roll(stripes, 3, 1)) is None
    assert shift_of(flat, flat) is None
    assert shift_of(noise[0], noise[1]) is None
    assert shift_of(noise[0, :16, :16], noise[0, :16, :16]) is None


@pytest.mark.parametrize(("clean", "bad"), [("GoPro/sharp", "GoPro/blur"), ("OutdoorRain/gt", "OutdoorRain/input")])
def test_published_pairs_are_aligned(clean: str, bad: str, standard_images: Callable[[str], Path]) -> None:
    folders = [list_images(standard_images(f"pairs/{name}")) for name in (clean, bad)]
    for pair in zip(*folders, strict=True):
        sharp, degraded_one = map(read_image, pair)
        assert PairCheck("weather")(sharp, [degraded_one]) is None


def test_sizes_and_channels_are_those_of_the_task() -> None:
    photo = PHOTOS[0][:120, :180]
    check = pair_check("denoise", {})
    assert check(photo, [photo]) is None
    assert check(photo, [photo[:, :-1]]) == ("size-mismatch", "degraded 179x120 RGB, clean 180x120 RGB")
    assert check(photo, [photo[:60, :90]])[0] == "size-mismatch"
    assert check(photo[:60, :90], [photo])[0] == "size-mismatch"
    assert check(photo, [np.roll(photo, (3, -4), (0, 1))]) == (
        "misaligned",
        "the degraded image is 3 pixels further down, -4 further right",
    )
    demosaic = pair_check("demosaic", {})
    assert demosaic(photo, [mosaic(photo, "rggb")]) is None
    assert demosaic(photo, [photo])[0] == demosaic(photo[:, :, 0], [photo[:, :, 0]])[0] == "channels-mismatch"


def test_scales_of_sr() -> None:
    photo = PHOTOS[0][:120, :180]
    check = pair_check("sr", {"scale": [2, 3]})
    assert check.scales == (2, 3)
    for scale in (2, 3):
        small = imresize(photo, 1 / scale)
        assert check(photo, [small]) is None
        assert check(photo, [np.roll(small, 2, 0)])[0] == "misaligned"
        assert check(photo[:-1], [small])[0] == "size-mismatch"
    assert check(photo, [imresize(photo, 1 / 4)]) == (
        "size-mismatch",
        "degraded 45x30 RGB, clean 180x120 RGB, 2:1 or 3:1 is wanted",
    )


def test_frames_of_one_size() -> None:
    frame = PHOTOS[0][:64, :80]
    assert check_frames(frame, [frame, frame]) is None
    assert check_frames(frame, [frame, frame[:63]]) == ("size-mismatch", "a frame of 80x63 RGB among 80x64 RGB")
    assert check_frames(frame, [frame[:, :, 0]])[0] == "size-mismatch"
