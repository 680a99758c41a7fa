"""How good a model is, by the published protocols: degrade, restore, compare, average over a set of images."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kgt import registry
from kgt.errors import UserError
from kgt.imaging import ImageError, demosaic_malvar, imresize, read_image, score
from kgt.tasks import TASKS, Protocol, get_task
from pipelines.degradations import DEGRADATIONS, Crop, Pair, demosaic, pair_rng, settings_of, values
from pipelines.pairing import match_pairs
from pipelines.progress import Meter
from pipelines.sources import Source, list_sources

HIGHEST_PSNR = 100.0  # dB that an image counts with whose PSNR is above, or infinite: means stay finite
_SSIM_WINDOW = 11

Restorer = Callable[[Pair], np.ndarray]


@dataclass(frozen=True)
class Row:
    """The means over a set's images in one setting; `also` has further figures such as `psnr_y`, by their names."""

    task: str
    set: str
    setting: str
    model: str
    images: int
    input_psnr: float
    input_ssim: float
    psnr: float
    ssim: float
    seconds: float
    also: dict[str, float] = field(default_factory=dict)
    per_image: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As a report's JSON has it."""
        flat = {name: value for name, value in vars(self).items() if name not in ("also", "per_image")}
        return {**flat, **self.also, "per_image": self.per_image}


def evaluate_task(
    task: str,
    *,
    images: str = "",
    degraded: str = "",
    clean: str = "",
    model: str = "input",
    changes: Mapping[str, Any] | None = None,
    k: int | None = None,
    tile: int | None = None,
    limit: int = 0,
    device: str = "cpu",
    quiet: bool = False,
) -> list[Row]:
    """One row for every choice in the task's settings, over `images`: a folder, s3://…, or `sample` (those held out).

    With `degraded` and `clean` instead, folders of ready pairs, there is one row. `changes`: what stands under
    `tasks.<task>.` for this task; `limit`: only so many images; `k`, `tile`, `device`: as in `kgt restore`;
    `quiet`: no progress is shown.

    Raises UserError for an unknown task or setting, folders without images or not in pairs, an image that cannot be
    scored, a model that is not there or for something else.
    """
    get_task(task)
    changes = changes or {}
    if limit < 0:
        raise UserError(f"limit={limit}: a number of images is wanted, 0 for all")
    if task == "demosaic" and model != "input":
        demosaic.check_model_takes(settings_of(task, changes, evaluation=True))
    restorer, scale = _restorer(model, task, k, tile, device)
    _addresses(images, degraded, clean)
    if degraded:
        sets = _ready_pairs(task, degraded, clean, changes, limit, model, scale)
    else:
        sets = _degraded_pairs(task, images, changes, limit, model, scale)
    rows = []
    total = sum(len(pairs) for _, _, pairs in sets)
    with nullcontext() if quiet else Meter(f"{task} ({model})", total, "images") as meter:
        for name, setting, pairs in sets:
            scored = []
            for read in pairs:
                scored.append(_score(task, *read(), restorer))
                if meter:
                    meter.advance()
            rows.append(_mean(task, name, setting, model, scored))
    return rows


def check_images(images: str, degraded: str, clean: str) -> None:
    """Raises UserError where `evaluate_task` would, for any task, because of what is named or of what is not there."""
    for address in _addresses(images, degraded, clean):
        _listed(address)


def baseline(task: str, pair: Pair) -> np.ndarray:
    """The degraded image as it is compared with the clean one: enlarged for sr, interpolated for demosaic.

    Range 0..255; a float image (noise) is neither clipped nor rounded, as published.
    """
    if task == "sr":
        return imresize(pair.degraded, pair.clean.shape[0] // pair.degraded.shape[0])
    if task == "demosaic":
        return demosaic_malvar(pair.degraded, pair.parameters["pattern"])
    return pair.degraded if pair.degraded.dtype == np.uint8 else pair.degraded * 255.0


NamedPair = tuple[str, Pair]
Set = tuple[str, str, list[Callable[[], NamedPair]]]
"""A row to be: the images' name, the setting, and for each image what reads it and makes its pair."""


def _degraded_pairs(
    task: str, images: str, changes: Mapping[str, Any], limit: int, model: str, scale: int | None
) -> list[Set]:
    settings = settings_of(task, changes, evaluation=True)
    if task == "sr" and scale is not None:
        settings = _at_scale(settings, scale, "scale" in changes, model)
    sources = _listed(images, limit)
    named = {*changes, "scale"} if task == "sr" else changes  # a model without tasks.sr.scale has a scale all the same
    name = "sample" if images == "sample" else Path(images).absolute().name
    return [
        (name, label or "default", [_degrading(task, source, asked) for source in sources])
        for label, asked in values.each(settings, named)
    ]


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
        return source.name, Pair(clean, module.degrade(clean, noise, parameters), parameters)

    return read


def _ready_pairs(
    task: str, degraded: str, clean: str, changes: Mapping[str, Any], limit: int, model: str, scale: int | None
) -> list[Set]:
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
    return [("/".join(Path(clean).absolute().parts[-2:]), "pairs", readers)]


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
        return degraded.name, Pair(high, low, parameters)

    return read


def _addresses(images: str, degraded: str, clean: str) -> list[str]:
    """The one or two that are named."""
    if images and not degraded and not clean:
        return [images]
    if degraded and clean and not images:
        return [degraded, clean]
    raise UserError("name the images: images=DIR or images=sample, or both degraded=DIR and clean=DIR")


def _listed(address: str, limit: int = 0) -> list[Source]:
    found = [source for source in list_sources(address, licence="") if source.split != "train"]
    return found[:limit] if limit else found


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


def _restorer(
    model: str, task: str, k: int | None, tile: int | None, device: str
) -> tuple[Restorer | None, int | None]:
    """What restores a pair's degraded image (None: nothing does), and the scale it is for (None: any)."""
    if model == "input":
        return None, None
    import torch

    from kgt.restore import restore
    from kgt.weights import load_weights

    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise UserError(f"device={device}: there is none here; use device=cpu")
    network, metadata = load_weights(
        registry.fetch(model) if registry.is_address(model) else Path(model), device=device
    )
    trained_for = metadata.get("task", task)
    if trained_for != task:
        raise UserError(f"{model} is a model for '{trained_for}', not for '{task}'")

    def apply(pair: Pair) -> np.ndarray:
        return restore(network, pair.degraded, task=task, k=k, tile=tile)

    return apply, network.config.scale


def _score(task: str, name: str, pair: Pair, restorer: Restorer | None) -> dict[str, Any]:
    """One image's figures under all of the task's protocols."""
    protocols = {"": TASKS[task].protocol, **{f"_{key}": protocol for key, protocol in TASKS[task].also}}
    scale = pair.clean.shape[0] // pair.degraded.shape[0]
    _check_size(name, pair.clean, max(_border(protocol, scale) for protocol in protocols.values()))
    given = baseline(task, pair)
    start = time.perf_counter()
    restored = given if restorer is None else restorer(pair)
    figures: dict[str, Any] = {"image": name, "seconds": time.perf_counter() - start if restorer else 0.0}
    for suffix, protocol in protocols.items():
        before = score(given, pair.clean, protocol, scale)
        after = before if restored is given else score(restored, pair.clean, protocol, scale)
        for prefix, (psnr, ssim) in (("input_", before), ("", after)):
            figures |= {f"{prefix}psnr{suffix}": min(psnr, HIGHEST_PSNR), f"{prefix}ssim{suffix}": ssim}
    return figures


def _border(protocol: Protocol, scale: int) -> int:
    return scale if protocol.border == "scale" else protocol.border


def _check_size(name: str, clean: np.ndarray, border: int) -> None:
    least = _SSIM_WINDOW + 2 * border
    if min(clean.shape[:2]) < least:
        raise UserError(
            f"{name} is too small to be scored: {clean.shape[1]}x{clean.shape[0]}, {least} a side is needed"
        )


def _mean(task: str, name: str, setting: str, model: str, scored: Sequence[dict[str, Any]]) -> Row:
    figures = {key: float(np.mean([image[key] for image in scored])) for key in scored[0] if key != "image"}
    headline = {key: figures.pop(key) for key in ("input_psnr", "input_ssim", "psnr", "ssim", "seconds")}
    return Row(task, name, setting, model, len(scored), **headline, also=figures, per_image=list(scored))
