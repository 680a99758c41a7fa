"""Restores images of any size: tile by tile, in bounded memory, the overlaps blended so that no seam shows."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from kgt.config import TOPK_NODES, KGTConfig
from kgt.errors import UserError
from kgt.imaging import Photo, imresize, to_rgb
from kgt.tasks import get_task

WHOLE_PIXELS = 768 * 512
"""Up to this many pixels an image is restored in one piece where no tile is asked for."""

TILE = 512
OVERLAP = 64

GRID = 32
"""Tiles begin at multiples of this: the Bayer pattern, the sampling between levels and the windows stay in phase."""

Progress = Callable[[int, int], None]
"""Called after every tile with the number done and the number of all."""

Span = tuple[int, int]


class NotFiniteError(UserError):
    """A model's output holds NaN or infinity."""


def restore(
    model: nn.Module,
    image: np.ndarray,
    *,
    task: str,
    k: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The restored image, uint8 (H · scale, W · scale, 3), computed where the model is.

    image: uint8, or float with 1 for white (unclipped noise), (H, W, 3) or (H, W). A gray image goes through a colour
        model as its replica and comes back gray; for `demosaic` it is the RGGB mosaic, and the result is colour.
    k: neighbours a node, quoted for 1024; None: the model's own.
    tile, overlap: side of the tiles and of what they share, in input pixels, rounded up to multiples of `GRID`. Without
        a tile, images of more than `WHOLE_PIXELS` get one of `TILE`.

    Raises UserError if the model is not one for the task, the image not one for the model, or a value out of range.
    """
    config: KGTConfig = model.config
    _check_fit(config, image, task)
    replicate = image.ndim == 2 and config.in_channels == 3
    weight = next(model.parameters())

    def read(rows: slice, columns: slice) -> Tensor:
        part = image[rows, columns]
        part = to_rgb(part) if replicate else part.reshape(*part.shape[:2], -1)
        values = torch.from_numpy(part.transpose(2, 0, 1).copy())[None]
        values = values.to(weight.device, weight.dtype)
        return values / 255 if image.dtype == np.uint8 else values

    height, width = (side * config.scale for side in image.shape[:2])
    gray = replicate or config.out_channels == 1
    restored = np.empty((height, width) if gray else (height, width, 3), np.uint8)
    top = 0
    for band in _bands(model, read, image.shape[:2], k, tile, overlap, progress):
        if not band.isfinite().all():
            raise NotFiniteError("the model's output is not finite: its weights are no good")
        values = band[0].mean(0) if gray else band[0].movedim(0, -1)
        restored[top : top + len(values)] = values.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
        top += len(values)
    return restored


def check_options(k: int | None, tile: int | None) -> None:
    """Raises UserError if `restore` could not take these."""
    if k is not None and not 1 <= k <= TOPK_NODES:
        raise UserError(f"k={k}: must lie in [1, {TOPK_NODES}]")
    if tile is not None and tile < 2 * GRID:
        raise UserError(f"tile={tile}: must be at least {2 * GRID}")


def restore_batch(
    model: nn.Module, x: Tensor, k: int | None = None, tile: int | None = None, overlap: int | None = None
) -> Tensor:
    """The model's output for (B, C, H, W) in [0, 1], tiled as in `restore` and not clipped: (B, out, H · s, W · s)."""

    def read(rows: slice, columns: slice) -> Tensor:
        return x[:, :, rows, columns]

    return torch.cat(list(_bands(model, read, x.shape[2:], k, tile, overlap)), dim=2)


def restore_photo(
    model: nn.Module,
    photo: Photo,
    *,
    task: str,
    k: int | None = None,
    tile: int | None = None,
    progress: Progress | None = None,
) -> Photo:
    """`restore` for a picture with what belongs to it: alpha is kept (enlarged with the image), and the ICC profile."""
    pixels = restore(model, photo.pixels, task=task, k=k, tile=tile, progress=progress)
    alpha = photo.alpha
    if alpha is not None and model.config.scale > 1:
        alpha = imresize(alpha, model.config.scale)
    same_channels = pixels.ndim == photo.pixels.ndim  # a profile of gray says nothing about colour
    return Photo(pixels, alpha, photo.icc if same_channels else None)


def _check_fit(config: KGTConfig, image: np.ndarray, task: str) -> None:
    wanted = get_task(task).channels
    if (config.in_channels, config.out_channels) != wanted or (config.scale > 1) != (task == "sr"):
        raise UserError(
            f"the model is not for '{task}': it takes {config.in_channels} channel(s), gives {config.out_channels} "
            f"and enlarges by {config.scale}"
        )
    if config.in_channels == 1 and image.ndim == 3:
        raise UserError(f"'{task}' takes a raw RGGB mosaic, an image of one channel: this one has colours already")


@torch.no_grad()
def _bands(
    model: nn.Module,
    read: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    k: int | None,
    tile: int | None,
    overlap: int | None,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """The output from top to bottom, in parts (B, C, rows, W · scale) as soon as no later tile touches them."""
    check_options(k, tile)
    side, shared = _tiling(size, tile, overlap)
    scale = model.config.scale
    rows, columns = (_spans(length, side, shared) for length in size)
    down, across = _feathers(rows, scale), _feathers(columns, scale)
    carried = None
    for index, (top, bottom) in enumerate(rows):
        band = None
        for number, (left, right) in enumerate(columns):
            part = model(read(slice(top, bottom), slice(left, right)), k)
            if band is None:
                band = part.new_zeros(*part.shape[:3], size[1] * scale)
            weight = down[index].to(part)[:, None] * across[number].to(part)
            band[..., left * scale : right * scale] += part * weight
            if progress:
                progress(index * len(columns) + number + 1, len(rows) * len(columns))
        if carried is not None:
            band[:, :, : carried.shape[2]] += carried
        finished = ((rows[index + 1][0] if index + 1 < len(rows) else bottom) - top) * scale
        carried = band[:, :, finished:]
        yield band[:, :, :finished]


def _tiling(size: tuple[int, int], tile: int | None, overlap: int | None) -> tuple[int, int]:
    """The tile's side and the overlap, both multiples of `GRID`."""
    if tile is None:
        tile = max(size) if size[0] * size[1] <= WHOLE_PIXELS else TILE
    side = _up(tile)
    shared = max(GRID, _up(min(OVERLAP, tile // 4))) if overlap is None else _up(overlap)
    if not GRID <= shared <= max(side // 2, GRID):
        raise UserError(f"overlap={overlap}: must lie in [{GRID}, {side // 2}], half the tile")
    return side, shared


def _up(length: int) -> int:
    return -(-length // GRID) * GRID


def _spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Where the tiles along one side begin and end. The last one begins on the grid too, and may be shorter."""
    if length <= tile:
        return [(0, length)]
    starts = [*range(0, length - tile, tile - overlap), _up(length - tile)]
    return [(start, min(start + tile, length)) for start in starts]


def _feathers(spans: list[Span], scale: int) -> list[Tensor]:
    """The weights of each span's output pixels, float64; at every pixel they sum to one over the spans.

    In an overlap the weight rises linearly over the middle half. The quarter next to a tile's edge has none: there the
    network saw no further, and its answer is the least sure.
    """
    total = torch.zeros(spans[-1][1] * scale, dtype=torch.float64)
    weights = []
    for index, (start, stop) in enumerate(spans):
        centre = torch.arange(start * scale, stop * scale, dtype=torch.float64) + 0.5
        weight = torch.ones_like(centre)
        if index > 0:
            weight *= _ramp(centre, start * scale, spans[index - 1][1] * scale)
        if index + 1 < len(spans):
            weight *= _ramp(centre, stop * scale, spans[index + 1][0] * scale)
        total[start * scale : stop * scale] += weight
        weights.append(weight)
    return [weight / total[start * scale : stop * scale] for (start, stop), weight in zip(spans, weights, strict=True)]


def _ramp(position: Tensor, edge: int, end: int) -> Tensor:
    """0 at a tile's `edge`, 1 at the overlap's other `end` and beyond."""
    return (2 * (position - edge) / (end - edge) - 0.5).clamp(0, 1)
