from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kgt.config import preset
from kgt.errors import UserError
from kgt.imaging import Photo, demosaic_malvar, imresize
from kgt.model import KGT
from kgt.restore import GRID, TILE, WHOLE_PIXELS, NotFiniteError, restore, restore_batch, restore_photo


class Local(nn.Module):
    """A blur of 5 × 5 pixels, then an enlargement: what lies further away than 2 pixels has no say."""

    def __init__(self, channels: tuple[int, int] = (3, 3), scale: int = 1) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=channels[0], out_channels=channels[1], scale=scale)
        self.blur = nn.Conv2d(channels[0], channels[1], 5, padding=2)
        torch.manual_seed(0)
        nn.init.uniform_(self.blur.weight, 0, 2 / self.blur.weight[0].numel())
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x: Tensor, k: int | None = None) -> Tensor:
        self.sizes.append(tuple(x.shape[2:]))
        return self.blur(x).repeat_interleave(self.config.scale, 2).repeat_interleave(self.config.scale, 3)


class Phase(nn.Module):
    """Answers with the parity of every pixel's place in what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=1, out_channels=3, scale=1)
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, k: int | None = None) -> Tensor:
        rows, columns = (torch.arange(side) % 2 for side in x.shape[2:])
        return (0.2 + 0.4 * rows[:, None] + 0.2 * columns).expand(len(x), 3, -1, -1)


def images(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(height * 1000 + width).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=25)
@given(
    st.integers(1, 220),
    st.integers(1, 220),
    st.sampled_from([64, 70, 128]),
    st.sampled_from([None, 64]),
    st.sampled_from([1, 2, 3]),
)
def test_tiles_of_a_local_model_join_without_a_trace(
    height: int, width: int, tile: int, overlap: int | None, scale: int
) -> None:
    model = Local(scale=scale)
    x = torch.rand(1, 3, height, width)
    with torch.no_grad():
        whole = model(x)
    overlap = None if overlap is None else min(overlap, tile // 2 // GRID * GRID)
    assert torch.allclose(restore_batch(model, x, tile=tile, overlap=overlap), whole, atol=1e-6)
    limit = -(-tile // GRID) * GRID
    assert all(rows <= limit and columns <= limit for rows, columns in model.sizes[1:])


@settings(max_examples=15)
@given(st.integers(64, 300), st.integers(64, 300), st.sampled_from([64, 160]))
def test_tiles_keep_the_phase_of_the_mosaic(height: int, width: int, tile: int) -> None:
    restored = restore(Phase(), images(height, width, 1), task="demosaic", tile=tile)
    rows, columns = np.indices((height, width)) % 2
    assert np.array_equal(restored[..., 0], np.round(255 * (0.2 + 0.4 * rows + 0.2 * columns)))


def test_only_a_large_image_is_tiled_unasked() -> None:
    small, large = Local(), Local()
    restore(small, images(512, WHOLE_PIXELS // 512), task="jpeg")
    assert small.sizes == [(512, WHOLE_PIXELS // 512)]
    seen = []
    restore(large, images(700, 1100), task="jpeg", progress=lambda done, total: seen.append((done, total)))
    assert max(max(size) for size in large.sizes) == TILE
    assert seen == [(n + 1, len(large.sizes)) for n in range(len(large.sizes))]


def test_tiling_changes_a_kgt_little(rng: np.random.Generator) -> None:
    model = KGT(preset("kgt-tiny", "denoise"))
    last = list(model.modules())[-1]
    nn.init.normal_(last.weight, std=0.01)
    smooth = imresize(rng.integers(0, 256, (12, 14, 3), dtype=np.uint8), 8)
    whole = restore(model, smooth, task="denoise").astype(int)
    tiled = restore(model, smooth, task="denoise", tile=64).astype(int)
    effect = np.abs(whole - smooth).mean()
    assert effect > 1
    assert np.abs(whole - tiled).mean() < effect / 5


def test_an_untrained_kgt_gives_its_baseline() -> None:
    colour, gray = images(40, 50), images(41, 50, 1)
    assert np.array_equal(restore(KGT(preset("kgt-tiny", "jpeg")), colour, task="jpeg"), colour)
    assert np.array_equal(restore(KGT(preset("kgt-tiny", "jpeg")), gray, task="jpeg"), gray)
    malvar = demosaic_malvar(gray).astype(int)
    assert np.abs(restore(KGT(preset("kgt-tiny", "demosaic")), gray, task="demosaic") - malvar).max() <= 1
    enlarged = imresize(colour, 2).astype(int)
    assert np.abs(restore(KGT(preset("kgt-tiny", "sr", 2)), colour, task="sr") - enlarged).max() <= 1


def test_float_inputs_are_taken_as_they_are() -> None:
    x = np.full((32, 32, 3), 1.5, np.float32)
    x[:16] = -0.5
    restored = restore(KGT(preset("kgt-tiny", "denoise")), x, task="denoise")
    assert (restored[:16] == 0).all()
    assert (restored[16:] == 255).all()


def test_a_photo_keeps_what_belongs_to_it() -> None:
    alpha = images(20, 24, 1)
    kept = restore_photo(KGT(preset("kgt-tiny", "denoise")), Photo(images(20, 24), alpha, b"profile"), task="denoise")
    assert np.array_equal(kept.alpha, alpha)
    assert kept.icc == b"profile"
    enlarged = restore_photo(KGT(preset("kgt-tiny", "sr", 3)), Photo(images(20, 24), alpha), task="sr")
    assert np.array_equal(enlarged.alpha, imresize(alpha, 3))
    coloured = restore_photo(KGT(preset("kgt-tiny", "demosaic")), Photo(alpha, icc=b"gray"), task="demosaic")
    assert coloured.icc is None


@pytest.mark.parametrize(
    ("task", "image", "options", "message"),
    [
        ("demosaic", images(32, 32, 1), {}, "the model is not for 'demosaic': it takes 3 channel"),
        ("sr", images(32, 32), {}, "the model is not for 'sr'.* enlarges by 1"),
        ("dejpeg", images(32, 32), {}, "unknown task 'dejpeg': did you mean 'jpeg'"),
        ("jpeg", images(32, 32), {"k": 0}, r"k=0: must lie in \[1, 1024\]"),
        ("jpeg", images(32, 32), {"k": 1025}, "k=1025"),
        ("jpeg", images(32, 32), {"tile": 63}, "tile=63: must be at least 64"),
        ("jpeg", images(32, 32), {"tile": 128, "overlap": 96}, r"overlap=96: must lie in \[32, 64\]"),
    ],
)
def test_what_cannot_be_is_refused(task: str, image: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        restore(Local(), image, task=task, **options)


def test_a_colour_image_is_no_mosaic() -> None:
    with pytest.raises(UserError, match="takes a raw RGGB mosaic"):
        restore(Local((1, 3)), images(32, 32), task="demosaic")


def test_a_broken_model_is_not_taken_for_a_black_picture() -> None:
    model = Local()
    nn.init.constant_(model.blur.bias, torch.nan)
    with pytest.raises(NotFiniteError):
        restore(model, images(32, 32), task="jpeg")


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 3, 3), (2, 9)])
def test_a_picture_of_a_few_pixels_is_restored(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 7, np.uint8)
    assert restore(KGT(preset("kgt-tiny", "denoise")), image, task="denoise").shape == shape
