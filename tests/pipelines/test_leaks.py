"""The leak guard: test images in disguise are found, other photographs are not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.errors import UserError
from kgt.imaging import list_images, read_image
from pipelines import leaks
from pipelines.detail import luma_of
from pipelines.leaks import Guard, guarded_view, load_guard
from pipelines.sample import PHOTOGRAPHS, sample_photographs

GUARDED = {path.name: luma_of(read_image(path)) for path in sample_photographs("val")}


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(list(GUARDED), [guarded_view(luma) for luma in GUARDED.values()])


def jpeg(luma: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


def resized(luma: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(luma, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def quarter(luma: np.ndarray) -> np.ndarray:
    """The middle quarter of the area."""
    height, width = luma.shape
    return luma[height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)]


DISGUISES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda luma: luma,
    "quality 95": lambda luma: jpeg(luma, 95),
    "quality 30": lambda luma: jpeg(luma, 30),
    "half size": lambda luma: resized(luma, 0.5),
    "larger": lambda luma: resized(luma, 1.5),
    "brighter": lambda luma: np.clip(luma * 1.2 + 10, 0, 255).astype(np.uint8),
    "darker": lambda luma: np.round(255 * (luma / 255) ** 1.4 * 0.9).astype(np.uint8),
    "crop": quarter,
    "crop, recompressed": lambda luma: jpeg(quarter(luma), 40),
    "upside down": lambda luma: luma[::-1, ::-1],
}


@pytest.mark.parametrize("disguise", list(DISGUISES))
def test_a_test_image_is_found(disguise: str, guard: Guard) -> None:
    assert {name: guard.find(DISGUISES[disguise](luma)) for name, luma in GUARDED.items()} == {n: n for n in GUARDED}


def test_other_photographs_are_not_found(guard: Guard) -> None:
    others = [photo for photo in PHOTOGRAPHS if photo.split == "train"]
    assert {photo.file: guard.find(luma_of(read_image(photo.path))) for photo in others} == {
        p.file: None for p in others
    }


def test_images_without_features(guard: Guard) -> None:
    down, right = np.mgrid[:300, :400]
    smooth = np.uint8(128 + 60 * np.sin(down / 45) * np.cos(right / 60))
    flat = np.full((300, 400), 77, np.uint8)
    index = Guard(["smooth", "flat", "strip"], [guarded_view(luma) for luma in (smooth, flat, flat[:16])])
    assert index.find(smooth) == "smooth"
    assert index.find(jpeg(smooth, 60)) == "smooth"
    assert index.find(flat) == "flat"
    assert index.find(flat[:16]) == "strip"
    assert index.find(flat[:, :399]) is None
    assert index.find(next(iter(GUARDED.values()))) is None
    assert guard.find(flat) is guard.find(smooth) is None
    for shape in ((16, 3000), (3000, 16), (16, 16)):
        assert index.find(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)) is None


@given(st.integers(0, 2**64 - 1))
def test_bits_are_counted(bits: int) -> None:
    assert leaks._ones(np.uint64(bits)) == bits.bit_count()


def test_it_is_the_same_every_time(guard: Guard) -> None:
    backwards = Guard(list(GUARDED)[::-1], [guarded_view(luma) for luma in list(GUARDED.values())[::-1]])
    for luma in GUARDED.values():
        found = [index.find(jpeg(quarter(luma), 20)) for index in (guard, guard, backwards)]
        assert len(set(found)) == 1


@pytest.mark.usefixtures("ray_local")
def test_a_guard_of_a_folder(tmp_path: Path) -> None:
    for path in sample_photographs("val"):
        shutil.copy(path, tmp_path)
    index = load_guard(str(tmp_path))
    assert list(index.names) == sorted(GUARDED)
    assert index.find(GUARDED["coffee.png"]) == "coffee.png"


@pytest.mark.usefixtures("ray_local")
def test_a_guard_that_would_not_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"guard image .*a\.png cannot be read, so not be guarded: not an image"):
        load_guard(str(tmp_path))
    monkeypatch.setattr(leaks, "MAX_GUARDED", 0)
    with pytest.raises(UserError, match="more than 0 images"):
        load_guard(str(tmp_path))


def test_standard_sets(standard_images: Callable[[str], Path]) -> None:
    """Berkeley's photographs, of one kind and size: 68 are guarded, others of them are not taken for those."""
    names = {path.stem: luma_of(read_image(path)) for path in list_images(standard_images("CBSD68"))}
    index = Guard(list(names), [guarded_view(luma) for luma in names.values()])
    for path in list_images(standard_images("BSDS500_train"))[::8]:
        assert index.find(luma_of(read_image(path))) is None
    found = [index.find(jpeg(quarter(luma), 30)) for luma in names.values()]
    assert all(answer in (name, None) for name, answer in zip(names, found, strict=True))
    assert sum(answer is not None for answer in found) >= 0.9 * len(names)
