"""What a model is measured on: sets of clean images that are degraded here, or ready pairs, as images are asked for."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kgt.errors import UserError
from kgt.imaging import ImageError, demosaic_malvar, imresize, read_image
from pipelines.degradations import DEGRADATIONS, Crop, Pair, pair_rng, settings_of, values
from pipelines.pairing import match_pairs
from pipelines.sources import Source, list_sources


class NamedPair(NamedTuple):
    """A pair, and the names of its degraded and its clean image: of one clean image there may be several degraded."""

    image: str
    clean: str
    pair: Pair


@dataclass(frozen=True)
class ImageSet:
    """A row of a report to be: the images' name, the setting, and for each image what reads it and makes its pair."""

    name: str
    setting: str
    pairs: Sequence[Callable[[], NamedPair]]


def degraded_sets(
    task: str, images: str, changes: Mapping[str, Any], limit: int, model: str, scale: int | None
) -> list[ImageSet]:
    """For each of the sets of `images`, one for every choice in the task's settings.

    images: an address, or `[several,addresses]`. changes: what stands under `tasks.<task>.`. scale: of a model for sr.
    Raises UserError.
    """
    settings = settings_of(task, changes, evaluation=True)
    if task == "sr" and scale is not None:
        settings = _at_scale(settings, scale, "scale" in changes, model)
    named = {*changes, "scale"} if task == "sr" else changes  # a model without tasks.sr.scale has a scale all the same
    listed = {address: _listed(address, limit) for address in addresses(images)}
    return [
        ImageSet(name, label or "default", [_degrading(task, source, asked) for source in listed[address]])
        for address, name in _names(list(listed)).items()
        for label, asked in values.each(settings, named)
    ]


def paired_sets(
    task: str, degraded: str, clean: str, changes: Mapping[str, Any], limit: int, model: str, scale: int | None
) -> list[ImageSet]:
    """The one set of ready pairs in two folders. Raises UserError."""
    if unused := sorted(set(changes) - ({"pattern"} if task == "demosaic" else set())):
        raise UserError(
            f"tasks.{task}.{unused[0]} changes nothing here: the images of degraded={degraded} are used as they are"
        )
    parameters = {}
    if task == "demosaic":
        (pattern, *more) = settings_of(task, changes, evaluation=True).pattern.options
        if more:
            raise UserError("tasks.demosaic.pattern: ready mosaics have one pattern, name it alone")
        parameters = {"pattern": pattern}
    matched = match_pairs(_listed(degraded), _listed(clean), (degraded, clean))
    matched = matched[:limit] if limit else matched
    readers = [_reading(task, bad, good, parameters, model, scale) for bad, good in matched]
    return [ImageSet("/".join(Path(clean).absolute().parts[-2:]), "pairs", readers)]


def check_images(images: str, degraded: str, clean: str) -> None:
    """See that either `images` or a pair of folders is named, and holds images. Raises UserError."""
    if images and not degraded and not clean:
        named = addresses(images)
    elif degraded and clean and not images:
        named = [degraded, clean]
    else:
        raise UserError("name the images: images=DIR or images=sample, or both degraded=DIR and clean=DIR")
    for address in named:
        _listed(address, 1)


def addresses(images: str) -> list[str]:
    """The one address, or those of `[several,addresses]`."""
    if not (images.startswith("[") and images.endswith("]")):
        return [images]
    return [address.strip() for address in images[1:-1].split(",")]


def baseline(task: str, pair: Pair) -> np.ndarray:
    """The degraded image as it is compared with the clean one: enlarged for sr, interpolated for demosaic.

    Range 0..255; a float image (noise) is neither clipped nor rounded, as published.
    """
    if task == "sr":
        return imresize(pair.degraded, pair.clean.shape[0] // pair.degraded.shape[0])
    if task == "demosaic":
        return demosaic_malvar(pair.degraded, pair.parameters["pattern"])
    return pair.degraded if pair.degraded.dtype == np.uint8 else pair.degraded * 255.0


def _names(several: Sequence[str]) -> dict[str, str]:
    """Each one's last part, and before it as many more as tell it from another folder that ends in the same."""
    parts = {
        address: (address,) if address == "sample" else Path(_located(address)).expanduser().absolute().parts
        for address in several
    }

    def name(own: tuple[str, ...]) -> str:
        others = [other for other in parts.values() if other != own]
        telling = (last for last in range(1, len(own)) if all(other[-last:] != own[-last:] for other in others))
        return Path(*own[-next(telling, len(own)) :]).as_posix()

    return {address: name(own) for address, own in parts.items()}


def _at_scale(settings: Any, scale: int, named: bool, model: str) -> Any:
    """sr settings for a model that enlarges by `scale`."""
    if not named:
        return values.override(settings, {"scale": scale})
    if settings.scale != values.fixed(scale):
        raise UserError(f"{model} enlarges by {scale}: write tasks.sr.scale={scale}, or leave it out")
    return settings


def _degrading(task: str, source: Source, settings: Any) -> Callable[[], NamedPair]:
    def read() -> NamedPair:
        data = _bytes(source)
        image = _decoded(source, data)
        module = DEGRADATIONS[task]
        whole = Crop(0, 0, *image.shape[:2])
        rng = pair_rng(0, 0, task, hashlib.blake2b(data, digest_size=16).hexdigest(), whole)
        parameters = module.draw(settings, rng)
        clean = module.prepare(image, parameters)
        # The literature's noise is the same for every image: drawn anew from seed 0.
        noise = np.random.default_rng(0) if task == "denoise" else rng
        return NamedPair(source.name, source.name, Pair(clean, module.degrade(clean, noise, parameters), parameters))

    return read


def _reading(
    task: str, degraded: Source, clean: Source, parameters: dict[str, Any], model: str, model_scale: int | None
) -> Callable[[], NamedPair]:
    def read() -> NamedPair:
        low, high = _decoded(degraded, _bytes(degraded)), _decoded(clean, _bytes(clean))
        if task == "demosaic" and (low.ndim, high.ndim) != (2, 3):
            raise UserError(f"{degraded.location} and {clean.location}: a mosaic is gray, its clean image in colour")
        if task != "demosaic" and low.ndim != high.ndim:
            raise UserError(f"{degraded.location} and {clean.location}: one is gray, the other in colour")
        scale = high.shape[0] // low.shape[0] if task == "sr" else 1
        if scale < 1 or high.shape[:2] != tuple(scale * side for side in low.shape[:2]):
            raise UserError(
                f"{degraded.location} is {low.shape[1]}x{low.shape[0]} and {clean.location} "
                f"{high.shape[1]}x{high.shape[0]}: no pair for '{task}'"
            )
        if model_scale not in (None, scale):
            raise UserError(
                f"{degraded.location} is {scale} times smaller than its clean image and {model} enlarges by "
                f"{model_scale}: name pairs of scale {model_scale}, or another model"
            )
        return NamedPair(degraded.name, clean.name, Pair(high, low, parameters))

    return read


def _listed(address: str, limit: int = 0) -> list[Source]:
    found = [source for source in list_sources(_located(address), licence="") if source.split != "train"]
    return found[:limit] if limit else found


def _located(address: str) -> str:
    """The address; or, where a relative path is no folder here, that folder below KGT_DATA."""
    if address == "sample" or "://" in address or Path(address).expanduser().exists():
        return address
    base = os.environ.get("KGT_DATA")
    if base and Path(base, address).is_dir():
        return str(Path(base, address))
    if "/" not in address and not address.endswith((".txt", ".tar")):
        raise UserError(f"no such folder: {address}, neither here nor below KGT_DATA={base or '(which is not set)'}")
    return address


def _bytes(source: Source) -> bytes:
    try:
        return source.read()
    except (OSError, LookupError) as error:
        raise UserError(f"cannot read {source.location}: {getattr(error, 'strerror', None) or error}") from error


def _decoded(source: Source, data: bytes) -> np.ndarray:
    try:
        return read_image(data)
    except ImageError as error:
        raise UserError(f"cannot evaluate on {source.location}: {error}") from error
