"""The six degradations: each a pure function of (clean image, random generator, parameters).

Every task's module has the same members:

    Settings                    a dataclass: one `Values` a setting; the defaults are the training ranges
    EVALUATION                  the Settings that a report uses when none are named
    draw(settings, rng)         one pair's parameters, JSON scalars
    prepare(clean, parameters)  the pair's target: gray or RGB as the task wants it, cropped to what it can take
    degrade(clean, rng, parameters)   the degraded image of a prepared one
    margin(parameters, shape)   clean pixels around a region of an image of `shape` that its degradation depends on:
                                so near to where a region was cut, what `degrade` returns means nothing
    align(settings)             regions and crops start at multiples of this
    POSITIONED                  whether `degrade` asks for the region's place in the photograph (`Frame`)
"""

import hashlib
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from kgt.imaging import to_rgb
from kgt.tasks import TASKS
from pipelines.degradations import deblur, demosaic, denoise, jpeg, sr, values, weather
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar

DEGRADATIONS: dict[str, ModuleType] = {
    "deblur": deblur,
    "jpeg": jpeg,
    "denoise": denoise,
    "weather": weather,
    "demosaic": demosaic,
    "sr": sr,
}
assert DEGRADATIONS.keys() == TASKS.keys()


class Crop(NamedTuple):
    """A rectangle of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


class Pair(NamedTuple):
    """A clean image, its degraded counterpart and the parameters that were drawn for it."""

    clean: np.ndarray
    degraded: np.ndarray
    parameters: dict[str, Scalar]


def settings_of(task: str, changes: Mapping[str, Any], *, evaluation: bool = False) -> Any:
    """The task's Settings with what the user wrote under `tasks.<task>.` put in. Raises UserError."""
    module = DEGRADATIONS[task]
    return values.override(module.EVALUATION if evaluation else module.Settings(), changes, f"tasks.{task}.")


def pair_rng(seed: int, epoch: int, task: str, digest: str, crop: Crop) -> np.random.Generator:
    """The pair's own randomness: Philox keyed by its names, so that order and parallelism change nothing."""
    names = json.dumps([seed, epoch, task, digest, list(crop)], separators=(",", ":")).encode()
    key = hashlib.blake2b(names, digest_size=16, person=b"kgt pair").digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def degrade_region(task: str, image: np.ndarray, crop: Crop, settings: Any, rng: np.random.Generator) -> Pair:
    """The pair of one crop of `image` (uint8 (H, W) or (H, W, 3)), as if the whole image had been degraded.

    Only the crop and the margin that its degradation depends on are worked on. `crop` starts at multiples of
    `align(settings)` and, for sr, its sides are multiples of every scale.
    """
    module = DEGRADATIONS[task]
    parameters = module.draw(settings, rng)
    step, margin = module.align(settings), module.margin(parameters, image.shape[:2])
    height, width = image.shape[:2]
    top, left = max(0, crop.top - margin) // step * step, max(0, crop.left - margin) // step * step
    bottom = min(height, -(-(crop.top + crop.height + margin) // step) * step)
    right = min(width, -(-(crop.left + crop.width + margin) // step) * step)

    if module.POSITIONED:
        parameters |= Frame(height, width, top, left).parameters()
    region = image[top:bottom, left:right]
    # A gray photograph stays as it is where gray pairs are asked for, and else is a colour photograph of gray things.
    region = module.prepare(region if parameters.get("gray") else to_rgb(region), parameters)
    degraded = module.degrade(region, rng, parameters)

    inside = Crop(crop.top - top, crop.left - left, crop.height, crop.width)
    return cut_pair(region, degraded, inside, parameters)


def degrade_image(task: str, image: np.ndarray, settings: Any, rng: np.random.Generator) -> Pair:
    """The pair of a whole image."""
    module = DEGRADATIONS[task]
    parameters = module.draw(settings, rng)
    clean = module.prepare(image, parameters)
    return Pair(clean, module.degrade(clean, rng, parameters), parameters)


def cut_pair(clean: np.ndarray, degraded: np.ndarray, crop: Crop, parameters: dict[str, Scalar]) -> Pair:
    """The pair of one crop, in pixels of `clean`, of two images of which `degraded` may be a whole times smaller."""
    ratio = clean.shape[0] // degraded.shape[0]
    return Pair(cut(clean, crop), cut(degraded, Crop(*(side // ratio for side in crop))), parameters)


def cut(image: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop of an image (H, W) or (H, W, 3), as an array of its own."""
    return np.ascontiguousarray(image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width])
