"""Pairs that do not fit are told from those that do, whatever degraded them."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgt.imaging import imresize, list_images, mosaic, read_image
from pipelines import alignment
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


@pytest.mark.parametrize(
    ("clean", "bad"),
    [("GoPro/sharp", "GoPro/blur"), ("OutdoorRain/gt", "OutdoorRain/input"), ("RainDrop/gt", "RainDrop/input")],
)
def test_published_pairs_fit(clean: str, bad: str, standard_images: Callable[[str], Path]) -> None:
    sharp, damaged = ([read_image(p) for p in list_images(standard_images(f"pairs/{name}"))] for name in (clean, bad))
    check = PairCheck("deblur" if "GoPro" in clean else "weather")
    for place, image in enumerate(sharp):
        assert check(image, [damaged[place]]) is None
        other = damaged[place - 1]
        if other.shape == image.shape:
            assert check(image, [other])[0] == "another-image"


STRONGEST = WAYS | {
    "rain": lambda image: degraded("weather", image, kind="rain", fog=2.3, streaks=20),
    "snow": lambda image: degraded("weather", image, kind="snow", fog=2.3, flakes=0.15),
    "raindrop": lambda image: degraded("weather", image, kind="raindrop", drops=200),
    "shake": lambda image: degraded("deblur", image, path=60, object=1),
}


@pytest.mark.parametrize("way", list(STRONGEST))
def test_another_scene_is_told_from_the_same_however_degraded(way: str) -> None:
    photos = [photo[:300, :400] for photo in PHOTOS]
    damaged = [STRONGEST[way](photo) for photo in photos]
    check = PairCheck("demosaic" if way == "mosaic" else "deblur")
    for place, photo in enumerate(photos):
        assert check(photo, [damaged[place]]) is None
        assert check(photo, [damaged[place - 1]]) == (
            "another-image",
            "the degraded image does not show what the clean one shows",
        )


def test_another_scene_is_found_in_small_images_of_sr() -> None:
    photos = [photo[:256, :256] for photo in PHOTOS]
    check = pair_check("sr", {"scale": 4})
    for place, photo in enumerate(photos):
        small = imresize(photo, 1 / 4)
        assert check(photo, [small]) is None
        assert check(photos[place - 1], [small])[0] == "another-image"


def test_nothing_is_refused_without_evidence(rng: np.random.Generator) -> None:
    """A flat, faint or tiny clean image could be that of any degraded one."""
    check = PairCheck("denoise")
    photos = [photo[:256, :256] for photo in PHOTOS]
    flat = np.full((256, 256, 3), 90, np.uint8)
    faint = np.clip(90 + rng.normal(0, 2, flat.shape), 0, 255).astype(np.uint8)
    stripes = np.tile(np.array([60, 60, 60, 60, 190, 190, 190, 190], np.uint8), (256, 32))
    for clean in (flat, faint, stripes):
        for other in (flat, noisy(flat), photos[0]):
            assert check(clean, [luma_of(other) if clean.ndim == 2 else other]) is None
    assert check(photos[0][:32, :32], [noisy(photos[1])[:32, :32]]) is None
    assert check(photos[0], [flat])[0] == "another-image"


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


def test_a_window_has_no_more_pixels_than_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = PHOTOS[0][:64, :80]
    monkeypatch.setattr(alignment, "MAX_PIXELS", 5 * 64 * 80)
    assert check_frames(frame, [frame] * 4) is None
    assert check_frames(frame, [frame] * 6) == (
        "too-large",
        "7 frames of 80x64 RGB have 35840 pixels, 25600 at most are read",
    )


@given(photo=st.sampled_from(PHOTOS), turn=st.floats(-2, 2), zoom=st.floats(0.96, 1.04), data=st.data())
@settings(max_examples=25)
def test_fast_motion_is_no_cut(photo: np.ndarray, turn: float, zoom: float, data: st.DataObject) -> None:
    """Frames of 320x240 cut from a photograph, by up to a tenth of their size apart."""
    down, right = data.draw(st.integers(-24, 24)), data.draw(st.integers(-32, 32))
    laid = cv2.getRotationMatrix2D((220, 148), turn, zoom)
    laid[:, 2] += right, down
    moved = cv2.warpAffine(photo, laid, photo.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    frames = [image[28:268, 60:380] for image in (photo, moved)]
    assert check_frames(frames[0], [frames[1], frames[0]]) is None
    assert check_frames(noisy(frames[0]), [frames[1], frames[0]]) is None


def test_turning_frames_are_no_cut() -> None:
    """Of a turn by 8 degrees the smallest pictures alone tell."""
    photo = PHOTOS[2]
    laid = cv2.getRotationMatrix2D((220, 148), 8, 0.93)
    moved = cv2.warpAffine(photo, laid, photo.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    frame, next_frame = (image[28:268, 60:380] for image in (photo, moved))
    assert check_frames(frame, [frame, next_frame]) is None


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_window_with_a_cut_is_refused(cut: int) -> None:
    before, after = (photo[:240, :320] for photo in PHOTOS[:2])
    for other in (after, np.zeros_like(after)):
        frames = [before] * cut + [other] * (5 - cut)
        middle = frames.pop(2)
        expected = "scene-cut", f"frames {cut} and {cut + 1} of 5 do not show the same scene"
        assert check_frames(middle, frames) == expected
