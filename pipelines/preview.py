"""A contact sheet: clean and degraded crops side by side, one row a task."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kgt.imaging import to_rgb, write_image
from pipelines.degradations import Pair
from pipelines.plan import Part, PlannedShard
from pipelines.synthesis import input_psnr, pairs_of

COLUMNS = 4
_CELL, _GAP, _LABEL = 192, 8, 30


def write(path: Path, plans: Sequence[Sequence[PlannedShard]]) -> None:
    """Write the sheet of some pairs of each plan, from sources apart. Nothing of a plan needs to have been made."""
    width = COLUMNS * (2 * _CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(plans) * (_CELL + _LABEL + _GAP) + _GAP), "white")
    for row, shards in enumerate(plans):
        for column, (shard, part) in enumerate(_some(shards)):
            _, pair, _ = next(pairs_of(part, shard))
            left, top = _GAP + column * (2 * _CELL + _GAP), _GAP + row * (_CELL + _LABEL + _GAP)
            for place, pixels in enumerate((pair.clean, _shown(pair.degraded))):
                sheet.paste(_cell(pixels), (left + place * _CELL, top + _LABEL))
            ImageDraw.Draw(sheet).text((left, top), _caption(shard.recipe.task, pair), fill="black")
    write_image(path, np.asarray(sheet))


def _some(shards: Sequence[PlannedShard]) -> list[tuple[PlannedShard, Part]]:
    """The first pair of a few different images, evenly spread over the plan."""
    firsts = [(shard, part) for shard in shards for part in shard.parts if part.first == 0]
    step = max(1, len(firsts) // COLUMNS)
    return firsts[::step][:COLUMNS]


def _shown(degraded: np.ndarray) -> np.ndarray:
    return degraded if degraded.dtype == np.uint8 else np.rint(degraded.clip(0, 1) * 255).astype(np.uint8)


def _cell(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(to_rgb(pixels))
    enlarged = max(image.size) < _CELL
    return image.resize((_CELL, _CELL), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _caption(task: str, pair: Pair) -> str:
    drawn = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in pair.parameters.items()
        if not name.startswith("frame_") and not isinstance(value, bool)
    ]
    return f"{task}   {input_psnr(task, pair):.1f} dB\n{', '.join(drawn)[:70]}"
