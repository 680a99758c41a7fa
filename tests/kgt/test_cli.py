import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kgt import cli
from kgt.config import preset
from kgt.imaging import Photo, imresize, mosaic, read_photo, write_image
from kgt.model import KGT
from kgt.weights import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of untrained models, which return their baselines; `odd` names no task."""
    folder = tmp_path_factory.mktemp("weights")
    for task, scale in (("denoise", 1), ("demosaic", 1), ("sr", 2)):
        save_weights(KGT(preset("kgt-tiny", task, scale)), folder / task, metadata={"task": task})
    save_weights(KGT(preset("kgt-tiny", "jpeg")), folder / "odd")
    return folder


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return imresize(rng.integers(0, 256, (10, 14, 3), dtype=np.uint8), 2)


def kgt(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_a_photo_is_restored_with_all_that_belongs_to_it(tmp_path: Path, weights: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = pixels[..., 0].copy()
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "my photo.png", exif=exif, icc_profile=b"a profile")
    assert kgt("restore", tmp_path / "my photo.png", tmp_path / "out.png", "--model", weights / "denoise") == 0
    with Image.open(tmp_path / "out.png") as written:
        assert written.getexif().get(0x0112, 1) == 1
    assert_same(read_photo(tmp_path / "out.png"), Photo(np.rot90(pixels, -1), np.rot90(alpha, -1), b"a profile"))


def assert_same(photo: Photo, expected: Photo) -> None:
    assert np.array_equal(photo.pixels, expected.pixels)
    assert np.array_equal(photo.alpha, expected.alpha)
    assert photo.icc == expected.icc


def test_super_resolution_enlarges_alpha_too(tmp_path: Path, weights: Path, pixels: np.ndarray) -> None:
    write_image(tmp_path / "in.png", pixels, alpha=pixels[..., 1])
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out.webp", "--model", weights / "sr") == 0
    restored = read_photo(tmp_path / "out.webp")
    assert restored.pixels.shape == (40, 56, 3)
    assert np.array_equal(restored.alpha, imresize(pixels[..., 1], 2))


def test_gray_stays_gray(tmp_path: Path, weights: Path, pixels: np.ndarray) -> None:
    write_image(tmp_path / "in.png", pixels[..., 0])
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out.png", "--model", weights / "denoise") == 0
    assert np.array_equal(read_photo(tmp_path / "out.png").pixels, pixels[..., 0])


def test_a_mosaic_becomes_colour_and_colour_is_refused(
    tmp_path: Path, weights: Path, pixels: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    write_image(tmp_path / "raw.png", mosaic(pixels))
    write_image(tmp_path / "colour.png", pixels)
    assert kgt("restore", tmp_path / "raw.png", tmp_path / "out.png", "--model", weights / "demosaic") == 0
    assert read_photo(tmp_path / "out.png").pixels.shape == pixels.shape
    assert kgt("restore", tmp_path / "colour.png", tmp_path / "no.png", "--model", weights / "demosaic") == 2
    assert "'demosaic' takes a raw RGGB mosaic" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_a_folder_is_restored_despite_a_bad_picture(
    tmp_path: Path, weights: Path, pixels: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "deep er/b c.webp", "z.tif"):
        write_image(folder / name, pixels)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    assert kgt("restore", folder, tmp_path / "out", "--model", weights / "denoise") == 1
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.png", "deep er/b c.webp", "z.tif"]
    for name in written:
        assert np.array_equal(read_photo(tmp_path / "out" / name).pixels, pixels)
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 3
    assert re.findall("^error: .*", printed.err, re.M) == [
        f"error: cannot use {folder / 'broken.png'}: the file is truncated or damaged",
        "error: 1 of 4 pictures were not restored",
    ]


def test_a_file_goes_into_a_folder_that_is_there(tmp_path: Path, weights: Path, pixels: np.ndarray) -> None:
    write_image(tmp_path / "in.png", pixels)
    (tmp_path / "out").mkdir()
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out", "--model", weights / "odd", "--task", "jpeg") == 0
    assert (tmp_path / "out" / "in.png").exists()


def test_a_registered_model_is_fetched(
    tmp_path: Path, weights: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("kgt.registry.fetch", lambda address: asked.append(address) or weights / "denoise")
    write_image(tmp_path / "in.png", pixels)
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out.png", "--model", "models:/kgt-denoise@champion") == 0
    assert asked == ["models:/kgt-denoise@champion"]


def test_every_option_reaches_the_model(
    tmp_path: Path, weights: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = KGT.forward

    def recorded(self: KGT, x: torch.Tensor, k: int | None = None) -> torch.Tensor:
        seen.append((tuple(x.shape[2:]), k))
        return forward(self, x, k)

    monkeypatch.setattr(KGT, "forward", recorded)
    write_image(tmp_path / "in.png", imresize(pixels, 4)[:70, :90])
    options = ("--k", 64, "--tile", 64, "--device", "cpu")
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out.png", "--model", weights / "denoise", *options) == 0
    assert seen == [((64, 64), 64), ((64, 58), 64), ((38, 64), 64), ((38, 58), 64)]


def test_tiles_are_counted_on_a_terminal(
    tmp_path: Path, weights: Path, pixels: np.ndarray, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    write_image(tmp_path / "in.png", imresize(pixels, 4)[:64, :90])
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out.png", "--model", weights / "denoise", "--tile", 64) == 0
    assert "in.png: tile 1 of 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("restor in.png out.png", "unknown command 'restor': did you mean 'restore'?"),
        ("restore in.png", "the following arguments are required: OUT, --model"),
        ("restore absent.png out.png --model denoise", "no such picture or folder: absent.png"),
        ("restore in.png out.psd --model denoise", "cannot write out.psd: the suffix must be one of .png"),
        ("restore in.png in.png --model denoise", "in.png is the picture that is read: name another file"),
        ("restore folder folder/out --model denoise", "folder/out lies in folder, which is read"),
        ("restore folder in.png --model denoise", "in.png is a file, folder a folder"),
        ("restore empty out --model denoise", "no image in empty"),
        ("restore in.png out.png --model absent", "no such weights file: absent"),
        ("restore in.png out.png --model in.png", "not a weights file (safetensors): in.png"),
        ("restore in.png out.png --model odd", "odd does not say what it is for: name it with --task"),
        ("restore in.png out.png --model odd --task denose", "unknown task 'denose': did you mean 'denoise'?"),
        ("restore in.png out.png --model denoise --task sr", "denoise is for 'denoise', not for 'sr'"),
        ("restore in.png out.png --model odd --task sr", "in.png: the model is not for 'sr'"),
        ("restore in.png out.png --model models:/kgt-sr@champion", "no model is registered yet"),
        ("restore in.png out.png --model denoise --k 0", "k=0: must lie in [1, 1024]"),
        ("restore in.png out.png --model denoise --tile 8", "tile=8: must be at least 64"),
        ("restore in.png out.png --model denoise --k many", "argument --k: invalid int value: 'many'"),
        ("restore deep.png out.png --model denoise", "more than 8 bits a channel: convert it to 8 bits first"),
        ("restore cmyk.jpg out.png --model denoise", "CMYK: convert it to RGB first"),
        ("restore alpha.png out.jpg --model denoise", "has no alpha channel, the picture has: write .png or .webp"),
        ("info kgt-x --task sr", "unknown model 'kgt-x': did you mean"),
        ("info kgt-u --task weathr", "unknown task 'weathr': did you mean 'weather'?"),
        ("info kgt-u --task sr --scale 2", "model 'kgt-u' is not made for task 'sr'"),
        ("info kgt-s --task sr --scale 5", "scale 5 is not one of super-resolution"),
        ("info kgt-u --task jpeg --size 64", "--size 64: write HEIGHTxWIDTH"),
        ("info kgt-u --task jpeg --k 2000", "k=2000: must lie in [1, 1024]"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    weights: Path,
    pixels: np.ndarray,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("denoise", "odd"):
        Path(name).symlink_to(weights / name)
    write_image(Path("in.png"), pixels)
    write_image(Path("folder/in.png"), pixels)
    write_image(Path("alpha.png"), pixels, alpha=pixels[..., 0])
    Path("empty").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint16)).save("deep.png")
    Image.new("CMYK", (20, 20)).save("cmyk.jpg")
    before = sorted(tmp_path.rglob("*"))
    assert kgt(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_no_gpu_is_told(tmp_path: Path, weights: Path, pixels: np.ndarray, capsys: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    write_image(tmp_path / "in.png", pixels)
    model = ("--model", weights / "denoise", "--device", "cuda")
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out.png", *model) == 2
    assert "no usable GPU is found" in capsys.readouterr().err


def test_too_little_memory_names_a_smaller_tile(
    tmp_path: Path, weights: Path, pixels: np.ndarray, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(KGT, "forward", full)
    write_image(tmp_path / "in.png", pixels)
    assert kgt("restore", tmp_path / "in.png", tmp_path / "out.png", "--model", weights / "denoise") == 2
    assert "try --tile 256" in capsys.readouterr().err


def test_info_tells_what_a_model_costs(capsys: pytest.CaptureFixture) -> None:
    assert kgt("info", "kgt-s", "--task", "sr", "--scale", 4, "--size", "64x48", "--k", 128) == 0
    printed = capsys.readouterr().out
    assert "kgt-s for super-resolution ×4" in printed
    assert "12,017,703" in printed
    assert "GMAC for 64x48 at k = 128 of 1024" in printed
    assert re.search(r"attention +(sparse|dense) on (cpu|cuda)", printed)
