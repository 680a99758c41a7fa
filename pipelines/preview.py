"""A contact sheet: clean and degraded images side by side, one row a task."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kgt.errors import UserError
from kgt.imaging import to_rgb, write_image
from pipelines.degradations import Pair
from pipelines.manifest import Manifest
from pipelines.plan import Part, PlannedShard
from pipelines.shards import ShardError, decode_pair, read_shard
from pipelines.storage import Missing, Store
from pipelines.synthesis import input_psnr, pairs_of

COLUMNS = 4
_CELL, _GAP, _LABEL = 192, 8, 44


def write_sheet(path: Path, rows: Sequence[tuple[str, Iterable[Pair]]]) -> None:
    """Write a sheet with a row for each (task, pairs), of which the first `COLUMNS` are shown."""
    shown = [(task, list(islice(pairs, COLUMNS))) for task, pairs in rows]
    width = max(len(pairs) for _, pairs in shown) * (2 * _CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(rows) * (_CELL + _LABEL + _GAP) + _GAP), "white")
    for row, (task, pairs) in enumerate(shown):
        for column, pair in enumerate(pairs):
            left, top = _GAP + column * (2 * _CELL + _GAP), _GAP + row * (_CELL + _LABEL + _GAP)
            for place, pixels in enumerate((pair.clean, _shown(pair.degraded))):
                sheet.paste(_cell(pixels), (left + place * _CELL, top + _LABEL))
            ImageDraw.Draw(sheet).text((left, top), _caption(task, pair), fill="black")
    write_image(path, np.asarray(sheet))


def planned_pairs(shards: Sequence[PlannedShard]) -> Iterable[Pair]:
    """A pair of each of some images of a plan, then further ones of them. Nothing of it needs to have been made."""
    of_images = [pairs_of(part, shard) for shard, part in some_pairs(shards, COLUMNS)]
    for pairs in zip_longest(*of_images):
        yield from (pair for _, pair, _ in filter(None, pairs))


def stored_pairs(store: Store, manifest: Manifest) -> Iterable[Pair]:
    """The first pair of each of some shards of a version."""
    for entry in manifest.shards[:: max(1, len(manifest.shards) // COLUMNS)]:
        try:
            with store.open(manifest.key(entry)) as file:
                pair = decode_pair(next(read_shard(file)))
        except (Missing, ShardError) as error:
            raise UserError(
                f"{store.url}/{manifest.key(entry)} is not what was published ({error}): "
                f"python pipelines/datasets.py verify task={manifest.task} store={store.url}"
            ) from error
        yield Pair(pair.clean, pair.degraded, pair.meta["parameters"])


def some_pairs(shards: Sequence[PlannedShard], count: int) -> list[tuple[PlannedShard, Part]]:
    """`count` different images, evenly spread over the plan: the part of each that begins with its first pair."""
    firsts = [(shard, part) for shard in shards for part in shard.parts if part.first == 0]
    step = max(1, len(firsts) // count)
    return firsts[::step][:count]


def _shown(degraded: np.ndarray) -> np.ndarray:
    return degraded if degraded.dtype == np.uint8 else np.rint(degraded.clip(0, 1) * 255).astype(np.uint8)


def _cell(pixels: np.ndarray) -> Image.Image:
    """Fitted into a square cell: crops are square, whole images of given pairs may not be."""
    image = Image.fromarray(to_rgb(pixels))
    scale = _CELL / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _caption(task: str, pair: Pair) -> str:
    drawn = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {str(value)[:16]}"
        for name, value in pair.parameters.items()
        if not name.startswith("frame_") and not isinstance(value, bool)
    ]
    lines = textwrap.wrap(", ".join(drawn) or "as given", 66, max_lines=2, placeholder=" …")
    return "\n".join([f"{task}   {input_psnr(task, pair):.1f} dB", *lines])
