"""Given blur kernels: reading, the text that stands for them, the convolution."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage import data

from kgt.errors import UserError
from kgt.imaging import linear_to_srgb, srgb_to_linear
from pipelines.degradations import degrade_image, settings_of
from pipelines.degradations.deblur import kernels
from pipelines.degradations.values import Choice, each, plain

QUIET = {"shot": 1e-9, "read": 1e-9}
PHOTO = np.ascontiguousarray(data.astronaut()[20:80, 150:230])
SIDES = st.integers(1, 12)
KERNELS = hnp.arrays(float, st.tuples(SIDES, SIDES), elements=st.floats(0, 1e6)).filter(lambda k: k.max() > 1e-3)


def reference(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution by its definition in float64, mirrored beyond the border: (H, W, 3) of range 0–1."""
    height, width = kernel.shape
    rows, columns = np.indices(image.shape[:2])
    padded = np.pad(image.astype(float) / 255, ((height, height), (width, width), (0, 0)), mode="reflect")
    total = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            total += kernel[i, j] * padded[rows + height - (i - height // 2), columns + width - (j - width // 2)]
    return total / kernel.sum()


def asked(raw: object, **changes: object) -> object:
    return settings_of("deblur", {"blur": "kernel", "kernels": raw, **QUIET, **changes})


@settings(max_examples=40)
@given(kernel=KERNELS, space=st.sampled_from(["encoded", "linear"]))
def test_the_blur_is_the_true_convolution(kernel: np.ndarray, space: str) -> None:
    text = kernels.encode(kernel)
    kept = kernels.decode(text).astype(float)  # in 16 bits, and where one entry is much the largest, not the very same
    wanted = reference(PHOTO, kept)
    if space == "linear":
        wanted = linear_to_srgb(reference(255 * srgb_to_linear(PHOTO / 255), kept))
    exactly = asked(text, space=space, highlight=1)
    seen = degrade_image("deblur", PHOTO, exactly, np.random.default_rng(0)).degraded
    assert np.abs(seen - 255 * wanted).max() <= 0.6


@pytest.mark.parametrize("side", [(1, 1), (2, 200), (33, 16)])
def test_small_images_take_large_kernels(side: tuple[int, int]) -> None:
    flat = np.full((*side, 3), 90, np.uint8)
    kernel = np.random.default_rng(0).random((129, 128))
    seen = degrade_image("deblur", flat, asked(kernels.encode(kernel)), np.random.default_rng(0)).degraded
    assert np.abs(seen.astype(int) - 90).max() <= 1


@given(KERNELS)
def test_text_holds_the_kernel(kernel: np.ndarray) -> None:
    text = kernels.encode(kernel)
    back = kernels.decode(text)
    assert back.shape == kernel.shape == kernels.shape_of(text)
    assert back.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(back / back.max() - kernel / kernel.max()).max() < 1e-5
    assert kernels.encode(back) == text


def test_a_manifest_reads_back_what_a_file_gave(tmp_path: Path) -> None:
    np.save(tmp_path / "three, with spaces.npy", np.random.default_rng(0).random((3, 5, 8)))
    read = asked(str(tmp_path / "three, with spaces.npy"))
    assert len(read.kernels.options) == 3
    record = json.loads(json.dumps(plain(read)))
    assert str(tmp_path) not in json.dumps(record)
    assert settings_of("deblur", record) == read
    drawn = {degrade_image("deblur", PHOTO, read, np.random.default_rng(s)).parameters["kernels"] for s in range(20)}
    assert drawn == set(read.kernels.options)
    labels = [label for label, _ in each(asked(str(tmp_path / "three, with spaces.npy"), space="encoded"))]
    assert len(set(labels)) == 3
    assert max(map(len, labels)) < 60


def test_files_folders_and_lists_are_read(tmp_path: Path) -> None:
    one, two = np.tri(3), np.eye(5, 4)
    np.savez(tmp_path / "both.npz", one, two)
    folder = tmp_path / "kernels"
    folder.mkdir()
    Image.fromarray((255 * one).astype(np.uint8)).save(folder / "a.png")
    Image.fromarray((60000 * two).astype(np.uint16)).save(folder / "b.PNG")
    (folder / "notes.txt").write_text("not a kernel")
    texts = (kernels.encode(one), kernels.encode(two))
    assert kernels.read(str(tmp_path / "both.npz"), "kernels") == Choice(texts)
    assert kernels.read(str(folder), "kernels") == Choice(texts)
    mixed = kernels.read([str(folder), kernels.encode(one.T)], "kernels")
    assert mixed == Choice((*texts, kernels.encode(one.T)))


def test_published_kernels_are_converted_first(standard_images: Callable[[str], Path], tmp_path: Path) -> None:
    """Levin's file holds pickled objects: it is refused with the line that converts it, and that line works."""
    file = standard_images("blur_kernels") / "Levin09.npy"
    with pytest.raises(
        UserError, match=r"not read; if you trust it: np\.savez\(out, \*np\.load\(file, allow_pickle=True\)\.ravel"
    ):
        kernels.read(str(file), "kernels")
    np.savez(tmp_path / "levin.npz", *np.load(file, allow_pickle=True).ravel())
    read = asked(str(tmp_path / "levin.npz"), space="encoded")
    assert [kernels.shape_of(text)[0] for text in read.kernels.options] == [19, 17, 15, 27, 13, 21, 23, 23]
    pair = degrade_image("deblur", PHOTO, read, np.random.default_rng(0))
    wanted = 255 * reference(PHOTO, kernels.decode(pair.parameters["kernels"]).astype(float))
    assert np.abs(pair.degraded - wanted).max() <= 0.6


def saved(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(shape: object) -> bytes:
    """A .npy file's beginning, which promises doubles of that shape."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


ONES, PICKLED = saved(np.ones((3, 3))), saved(np.array([None, {}]), allow_pickle=True)
BOMB = header((60000, 60000)) + bytes(10_000_000)


def png(mode: str, side: int = 3) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), 1).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("k.npy", saved(np.ones((130, 3))), "k.npy: a kernel of 130x3, sides of 1 to 129 are allowed"),
        ("k.npy", saved(np.ones((0, 3))), "k.npy: a kernel of 0x3, sides of 1 to 129 are allowed"),
        ("k.npy", saved(np.zeros((3, 3))), "k.npy: a kernel's values are finite, none below 0 and some above it"),
        ("k.npy", saved(-np.eye(3)), "k.npy: a kernel's values are finite, none below 0 and some above it"),
        ("k.npy", saved(np.full((3, 3), np.inf)), "k.npy: a kernel's values are finite, none below 0"),
        ("k.npy", saved(np.ones(9)), "k.npy: a kernel is a 2-D array of numbers, not 1-D of float64"),
        ("k.npy", saved(np.ones((2, 2), complex)), "k.npy: a kernel is a 2-D array of numbers, not 2-D of complex128"),
        ("k.npy", saved(np.ones((257, 2, 2))), "257 kernels, 1 to 256 are allowed"),
        ("k.npy", saved(np.ones((0, 2, 2))), "0 kernels, 1 to 256 are allowed"),
        ("k.npy", PICKLED, "k.npy: holds Python objects"),
        ("k.npy", saved(np.ones((9, 9)))[:150], "k.npy is cut short: 22 of 648 bytes of numbers"),
        ("k.npy", saved(np.ones((9, 9)))[:40], "k.npy is not a .npy file, or a damaged one"),
        ("k.npy", b"", "k.npy is not a .npy file, or a damaged one"),
        ("k.npy", b"This file needs allow_pickle", "k.npy is not a .npy file, or a damaged one"),
        ("k.npy", header((2**21, 2**21)), "k.npy: a kernel of 2097152x2097152, sides of 1 to 129 are allowed"),
        ("k.npy", header((2**70, 3, 3)), "1180591620717411303424 kernels, 1 to 256 are allowed"),
        ("k.npy", header((2, -1, 3)), "k.npy: a kernel of -1x3, sides of 1 to 129 are allowed"),
        ("k.npy", header("(" * 5000), "k.npy is not a .npy file, or a damaged one"),
        ("k.npy", b"0" * 40_000_000, "k.npy: larger than 256 kernels can be ("),
        ("k.npz", b"PK\x03\x04 no archive", "k.npz cannot be read ("),
        ("k.npz", packed({"notes.txt": b"text"}), "notes.txt is not a .npy file, or a damaged one"),
        ("k.npz", packed({"a.npy": BOMB}), "a.npy: a kernel of 60000x60000, sides of 1 to 129 are allowed"),
        ("k.npz", packed({"a.npy": bytes(40_000_000)}), "k.npz: unpacked larger than 256 kernels can be ("),
        ("k.npz", packed({"a.npy": PICKLED}), "a.npy: holds Python objects, which can run code and are not read"),
        ("k.npz", packed({"a.npy": ONES}, zipfile.ZIP_LZMA), "k.npz: packed as np.savez and np.savez_compressed never"),
        ("k.npz", packed({"a.npy": ONES}).replace(b"\x00\x00\x08\x00", b"\x01\x00\x08\x00"), "is encrypted"),
        ("k.npz", packed({}), "k.npz: 0 kernels, 1 to 256 are allowed"),
        ("k.txt", b"1 1 1", "k.txt: a .npy or .npz file or a folder of PNGs is wanted"),
        ("folder/k.png", png("RGB"), "folder/k.png: a grayscale PNG is wanted, this one is RGB"),
        ("folder/k.png", png("L", 130), "folder/k.png: a kernel of 130x130, sides of 1 to 129 are allowed"),
        ("folder/k.png", b"no picture", "folder cannot be read (cannot identify image file"),
        ("folder/k.jpg", png("L"), "folder: no PNG in that folder"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        settings_of("deblur", {"kernels": str(file.parent if "/" in name else file)})
    assert str(error.value).startswith("tasks.deblur.kernels")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_python_objects_are_converted_from_npy_files_only(tmp_path: Path) -> None:
    """The line that converts is of no use on an archive: it is not shown there."""
    (tmp_path / "k.npz").write_bytes(packed({"a.npy": PICKLED}))
    with pytest.raises(UserError, match=r"are not read$"):
        kernels.read(str(tmp_path / "k.npz"), "kernels")


DAMAGED = st.sampled_from([("k.npy", ONES), ("k.npz", packed({"a.npy": ONES})), ("k.npz", packed({"a.npy": ONES}, 0))])


@settings(max_examples=300)
@given(
    file=DAMAGED,
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=4),
    length=st.integers(0, 400),
)
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, bytes], changes: list[tuple[int, bytes]], length: int
) -> None:
    path, content = tmp_path_factory.getbasetemp() / file[0], bytearray(file[1])
    for place, value in changes:
        content[place : place + len(value)] = value
    path.write_bytes(content[: max(length, len(content) - length)])
    with contextlib.suppress(UserError):
        assert kernels.read(str(path), "kernels").options


NINE = kernels.encode(np.tri(3)).split(":")[2]


NOWHERE = ("/no/such/file.npy", ["/no/such/folder/"], "~nobody-here/k.npy", "k\0.npy", "k" * 5000 + ".npy")


@pytest.mark.parametrize("raw", [3, [], [""], {"a": 1}, None, *NOWHERE])
def test_what_is_no_file_is_refused(raw: object) -> None:
    with pytest.raises(UserError, match=r"^tasks\.deblur\.kernels"):
        settings_of("deblur", {"kernels": raw})


@pytest.mark.parametrize("rest", ["", "3x3:!!!!", "3x3:AAAA", "200x3:AAAA", "0x3:AAAA", f"4x3:{NINE}", f"2x3:{NINE}"])
def test_what_is_no_kernel_as_text_is_refused(rest: str) -> None:
    with pytest.raises(UserError, match=r"^tasks\.deblur\.kernels=kernel:.*…: not a kernel as a manifest writes it"):
        settings_of("deblur", {"kernels": f"kernel:{rest}"})


def test_kernels_must_be_named() -> None:
    with pytest.raises(UserError, match=r"^tasks\.deblur\.blur=kernel: say which with tasks\.deblur\.kernels=FILE"):
        degrade_image("deblur", PHOTO, settings_of("deblur", {"blur": "kernel"}), np.random.default_rng(0))
