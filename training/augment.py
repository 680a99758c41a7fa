"""From a stored pair to a training patch: crop, flip or rotate, and (where that is cheap and right) degrade afresh."""

import os
from typing import Any

import numpy as np

from kgt.errors import UserError
from kgt.imaging import to_rgb
from kgt.tasks import get_task
from pipelines.degradations import DEGRADATIONS
from pipelines.shards import Pair

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else its import asks PyPI for a newer version
from albumentations.augmentations.geometric.functional import d4

SYMMETRIES = ("e", "r90", "r180", "r270", "h", "v", "t", "hvt")
"""The eight flips and rotations of a square, as albumentations names them."""


def training_patch(
    task: str, pair: Pair, patch: int, rng: np.random.Generator, redraw: Any | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(degraded, clean) float32 (C, h, w), 1 for white; a function of the arguments and of `rng`'s state.

    patch: side of the degraded patch in pixels; the clean one is `scale` times larger in super-resolution.
    redraw: the degradation's Settings to draw from instead of what is stored (`config.REDRAWABLE` tasks only).

    Raises UserError where the pair is smaller than the patch.
    """
    clean, degraded = pair.clean, pair.degraded
    height, width = degraded.shape[:2]
    if min(height, width) < patch:
        raise UserError(
            f"patch={patch}: the shards of {task} hold degraded images of {height}x{width} pixels; "
            f"use patch={min(height, width)} at most, or larger crops (pipelines/synthesize.py crop=…)"
        )
    module = DEGRADATIONS[task]
    grid = 2 if task == "demosaic" else 1
    scale = clean.shape[0] // height
    top, left = (grid * int(rng.integers((side - patch) // grid + 1)) for side in (height, width))
    clean = clean[top * scale : (top + patch) * scale, left * scale : (left + patch) * scale]
    symmetry = SYMMETRIES[int(rng.integers(len(SYMMETRIES)))]
    given = pair.meta.get("paired", False)  # a real degraded image: nothing of it can be drawn anew
    if task == "weather":  # rain falls: only left and right may change places
        symmetry = "h" if symmetry in SYMMETRIES[4:] else "e"
    if task == "demosaic" and given:  # flipped, its mosaic would have another phase
        symmetry = "e"
    clean = d4(clean, symmetry)
    if task == "demosaic" and not given:
        # A flipped mosaic would have another phase, so the clean patch is sampled anew on the unflipped grid.
        degraded = module.degrade(clean, rng, pair.meta["parameters"])
    elif redraw is not None:
        degraded = module.degrade(clean, rng, module.draw(redraw, rng))
    else:
        degraded = d4(degraded[top : top + patch, left : left + patch], symmetry)
    inputs, outputs = get_task(task).channels
    return planes(degraded, inputs), planes(clean, outputs)


def planes(image: np.ndarray, channels: int) -> np.ndarray:
    """An image as float32 (channels, H, W), 1 for white; gray is replicated where the model takes colour."""
    if channels == 3:
        image = to_rgb(image)
    values = image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
    return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))
