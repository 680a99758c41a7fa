import contextlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kgt.errors import UserError
from kgt.imaging import ImageError, list_images, read_image, read_photo, write_image

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = RGB[..., 0].copy()


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def deep_png(colours: int) -> bytes:
    """A 16-bit PNG of gray (1) or RGB (3), which Pillow cannot write for colour."""
    import cv2

    return cv2.imencode(".png", np.zeros((20, 30, colours), np.uint16) + 513)[1].tobytes()


def deep_tiff() -> bytes:
    import cv2

    return cv2.imencode(".tiff", np.zeros((20, 30, 3), np.uint16) + 513)[1].tobytes()


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by a quarter, clockwise
    return exif


IMAGE = Image.fromarray(RGB)
FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {})])
@pytest.mark.parametrize("pixels", [RGB, GRAY], ids=["rgb", "gray"])
def test_lossless_files_read_as_they_were(kind: str, options: dict, pixels: np.ndarray) -> None:
    read = read_image(encode(Image.fromarray(pixels), kind, **options))
    expected = np.repeat(GRAY[..., None], 3, axis=2) if kind == "WEBP" and pixels is GRAY else pixels
    assert read.dtype == np.uint8
    assert np.array_equal(read, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_the_camera_orientation_is_applied(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(read_image(encode(IMAGE, kind, exif=rotated(), **options)), np.rot90(RGB, -1))


def test_a_palette_is_resolved() -> None:
    paletted = IMAGE.quantize(16)
    assert np.array_equal(read_image(encode(paletted, "PNG")), np.asarray(paletted.convert("RGB")))


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("not-an-image", b""),
        ("not-an-image", b"cos\nsystem\n(S'echo'\ntR."),
        ("not-an-image", pickle.dumps(RGB)),
        ("truncated", encode(IMAGE, "PNG")[:-200]),
        ("truncated", encode(IMAGE, "JPEG")[:-200]),
        ("16-bit", deep_png(1)),
        ("16-bit", deep_png(3)),
        ("16-bit", deep_tiff()),
        ("16-bit", encode(Image.fromarray(GRAY.astype(np.float32)), "TIFF")),
        ("cmyk", encode(IMAGE.convert("CMYK"), "JPEG")),
        ("colour-space", encode(IMAGE.convert("LAB"), "TIFF")),
        ("alpha", encode(IMAGE.convert("RGBA"), "PNG")),
        ("alpha", encode(IMAGE.convert("LA"), "PNG")),
        ("alpha", encode(IMAGE.quantize(16), "PNG", transparency=3)),
        ("animated", encode(IMAGE, "GIF", **FRAMES)),
        ("animated", encode(IMAGE, "PNG", **FRAMES)),
        ("animated", encode(IMAGE, "WEBP", **FRAMES)),
        ("too-small", encode(IMAGE.crop((0, 0, 1, 1)), "PNG")),
        ("too-small", encode(IMAGE.crop((0, 0, 30, 15)), "PNG")),
        ("too-large", encode(Image.new("1", (20000, 10000)), "PNG")),
        ("too-large", encode(Image.new("1", (11000, 10000)), "PNG")),
    ],
)
def test_what_is_unfit_is_refused_with_the_reason(reason: str, data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert caught.value.reason == reason
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason


def test_the_pixel_limit_can_be_set() -> None:
    with pytest.raises(ImageError, match="more pixels"):
        read_image(encode(IMAGE, "PNG"), max_pixels=20 * 30 - 1)
    assert read_image(encode(IMAGE, "PNG"), max_pixels=20 * 30).shape == RGB.shape


SEEDS = [encode(IMAGE, kind, exif=rotated()) for kind in ("PNG", "JPEG", "WEBP", "TIFF")] + [
    encode(IMAGE.quantize(), "GIF")
]


@settings(max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=4), st.integers(0, 9)), max_size=4),
)
def test_damage_is_read_or_refused_but_never_raises_otherwise(data: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    for at, inserted, removed in edits:
        data = data[: at % (len(data) + 1)] + inserted + data[at % (len(data) + 1) + removed :]
    with contextlib.suppress(ImageError):
        assert read_image(data, max_pixels=10_000).dtype == np.uint8


def test_a_phones_second_frame_does_not_make_it_an_animation() -> None:
    assert read_image(encode(IMAGE, "MPO", **FRAMES)).shape == RGB.shape


def test_a_photo_keeps_alpha_and_profile_apart(tmp_path: Path) -> None:
    alpha = np.arange(600, dtype=np.uint8).reshape(20, 30)
    write_image(tmp_path / "p.png", RGB, alpha=alpha, icc=b"a profile")
    photo = read_photo(tmp_path / "p.png")
    assert np.array_equal(photo.pixels, RGB)
    assert np.array_equal(photo.alpha, alpha)
    assert photo.icc == b"a profile"
    write_image(tmp_path / "g.webp", GRAY, alpha=alpha)
    assert np.array_equal(read_photo(tmp_path / "g.webp").alpha, alpha)


def test_a_photo_is_upright_with_its_alpha(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(encode(Image.fromarray(np.dstack([RGB, GRAY])), "PNG", exif=rotated()))
    photo = read_photo(tmp_path / "p.png")
    assert np.array_equal(photo.pixels, np.rot90(RGB, -1))
    assert np.array_equal(photo.alpha, np.rot90(GRAY, -1))


def test_a_photo_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    deep.write_bytes(deep_png(3))
    with pytest.raises(UserError, match=r"deep\.png: more than 8 bits a channel: convert it to 8 bits first"):
        read_photo(deep)
    with pytest.raises(UserError, match=r"absent\.png: No such file"):
        read_photo(tmp_path / "absent.png")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".bmp", ".PNG"])
@pytest.mark.parametrize("pixels", [RGB, GRAY[:, ::2]], ids=["rgb", "gray"])
def test_written_pixels_come_back(tmp_path: Path, suffix: str, pixels: np.ndarray) -> None:
    path = tmp_path / "made" / f"picture{suffix}"
    write_image(path, pixels)
    read = read_photo(path).pixels
    assert np.array_equal(read if read.ndim == pixels.ndim else read[..., 0], pixels)
    assert os.listdir(path.parent) == [path.name]


def test_jpeg_is_written_finely(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)
    write_image(tmp_path / "p.jpg", smooth)
    assert np.abs(read_photo(tmp_path / "p.jpg").pixels.astype(int) - smooth).max() <= 3


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.png"
    write_image(path, RGB)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*p\.png: No space left on device"):
        write_image(path, GRAY)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.png"]


def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p\.psd: the suffix must be one of \.png"):
        write_image(tmp_path / "p.psd", RGB)
    with pytest.raises(UserError, match=r"\.jpg has no alpha channel"):
        write_image(tmp_path / "p.jpg", RGB, alpha=GRAY)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_image(tmp_path / "file" / "p.png", RGB)


def test_a_folder_is_listed_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "._a.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "sub/c.webp"]


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder: .*absent"):
        list_images(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no image in .*looked for \.png"):
        list_images(tmp_path)
