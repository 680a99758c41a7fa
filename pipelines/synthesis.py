"""The making of one shard: a planned range of sources to one object in the store. What a Ray task of the job runs."""

import errno
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from kgt.errors import UserError
from kgt.imaging import HIGHEST_PSNR, demosaic_malvar, imresize, psnr, read_image, rgb_to_y, to_rgb
from pipelines.degradations import Crop, Pair, cut, cut_pair, deblur, degrade_region, pair_rng, settings_of
from pipelines.degradations.values import Scalar
from pipelines.manifest import ShardEntry, entry_of, pool_key
from pipelines.memory import peak_mib
from pipelines.plan import Part, PlannedShard
from pipelines.shards import Sample, encode_pair, write_shard
from pipelines.storage import Malformed, Missing, Store, holds, read_json
from pipelines.survey import digest_of


def make_shard(row: dict[str, Any]) -> dict[str, Any]:
    """`row`: a PlannedShard and a Store. Make the shard unless it is there.

    Its ShardEntry, whether it was kept, and the most memory that this process has held so far, in MiB.
    """
    shard, store = row["shard"], row["store"]
    entry = finished(shard, store)
    return {"entry": entry or _make(shard, store), "kept": entry is not None, "peak_mib": peak_mib()}


def finished(shard: PlannedShard, store: Store) -> ShardEntry | None:
    """The record of a shard that an earlier run completed, if the object is there with the checksum in the record."""
    try:
        record = read_json(store, pool_key(shard.recipe.task, shard.name, "json"))
    except (Missing, Malformed):
        return None
    try:
        entry = entry_of(record)
    except ValueError:
        return None
    if (entry.name, entry.split, entry.samples) != (shard.name, shard.split, shard.samples):
        return None
    return entry if holds(store, pool_key(shard.recipe.task, shard.name), entry.bytes, entry.sha256) else None


def pairs_of(part: Part, shard: PlannedShard) -> Iterator[tuple[str, Pair, dict[str, Any]]]:
    """Every pair of one source image in the shard: its id, the pair, and its record.

    Raises UserError if the image is not what the survey saw.
    """
    recipe, image = shard.recipe, part.image
    clean, *others = _read(part)
    settings = settings_of(recipe.task, recipe.settings)
    crops = recipe.crops_of(image, shard.epoch)
    for number in range(part.first, part.last):
        crop = crops[number]
        rng = pair_rng(recipe.seed, shard.epoch, recipe.task, image.digest, crop)
        if recipe.paired:
            pair = given_pair(recipe.task, clean, others[0], crop, settings)
        elif recipe.settings.get("blur") == "video":
            pair = video_pair(clean, others, crop, settings, rng)
        else:
            pair = degrade_region(recipe.task, clean, crop, settings, rng)
        record = {
            "task": recipe.task,
            "paired": recipe.paired,
            "parameters": pair.parameters,
            "seed": recipe.seed,
            "epoch": shard.epoch,
            "source": image.digest,
            "licence": image.source.licence,
            "crop": list(crop),
            "clean_size": list(pair.clean.shape),
            "degraded_size": list(pair.degraded.shape),
        }
        yield f"{image.digest[:20]}-{number:05d}", pair, record


def given_pair(task: str, clean: np.ndarray, degraded: np.ndarray, crop: Crop, settings: Any) -> Pair:
    """The pair of one crop of a clean image and of the degraded image that was given with it.

    Recorded are the parameters that the images' sizes and channels stand for: `scale` of sr, `pattern` of demosaic.
    """
    parameters: dict[str, Scalar] = {}
    if task == "sr":
        parameters["scale"] = clean.shape[0] // degraded.shape[0]
    if task == "demosaic":
        (parameters["pattern"],) = settings.pattern.options
    else:
        degraded = to_rgb(degraded)
    return cut_pair(to_rgb(clean), degraded, crop, parameters)


def video_pair(
    middle: np.ndarray, others: Sequence[np.ndarray], crop: Crop, settings: Any, rng: np.random.Generator
) -> Pair:
    """The pair of one crop of consecutive frames: all of them averaged, and the middle one. `others` are in order."""
    half = len(others) // 2
    frames = [to_rgb(cut(frame, crop)) for frame in (*others[:half], middle, *others[half:])]
    parameters = deblur.draw(settings, rng)
    return Pair(frames[half], deblur.average(frames, rng, parameters), parameters | {"frames": len(frames)})


def input_psnr(task: str, pair: Pair) -> float:
    """PSNR in dB of what the model is given, in the task's usual measure: bicubic on Y for sr, Malvar for demosaic."""
    clean, degraded = pair.clean, pair.degraded
    if task == "sr":
        scale = pair.parameters["scale"]
        return _capped(psnr(imresize(rgb_to_y(degraded), scale), rgb_to_y(clean), border=scale))
    if task == "demosaic":
        return _capped(psnr(demosaic_malvar(degraded, pair.parameters["pattern"]), clean, border=10))
    if degraded.dtype == np.float32:
        clean = clean.astype(np.float32) / np.float32(255)
    error = cv2.norm(clean, degraded, cv2.NORM_L2SQR) / clean.size * (1 if clean.dtype == np.float32 else 255**-2)
    return _capped(-10 * math.log10(error) if error else math.inf)


def _make(shard: PlannedShard, store: Store) -> ShardEntry:
    cv2.setNumThreads(1)  # Ray runs as many tasks as there are cores
    task = shard.recipe.task
    figures: list[float] = []

    def samples() -> Iterator[Sample]:
        for part in shard.parts:
            for key, pair, record in pairs_of(part, shard):
                figures.append(input_psnr(task, pair))
                yield encode_pair(key, pair.clean, pair.degraded, record)

    try:
        with tempfile.TemporaryFile() as spool:  # without a name: of a worker that is killed, none is left
            count = write_shard(samples(), spool)
            size = spool.tell()
            spool.seek(0)
            sha256 = hashlib.file_digest(spool, "sha256").hexdigest()
            store.put(pool_key(task, shard.name), spool, sha256=sha256)
    except OSError as error:  # of the spool: a store has its own words
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the folder for temporary files, {tempfile.gettempdir()}, is full ({error.strerror}): "
            "make room there, or set TMPDIR to another folder"
        ) from error
    sums = math.fsum(figures), math.fsum(figure**2 for figure in figures)
    entry = ShardEntry(shard.name, shard.split, shard.epoch, count, size, sha256, *sums)
    record = json.dumps(vars(entry), sort_keys=True, allow_nan=False)
    store.put(pool_key(task, shard.name, "json"), record.encode())
    return entry


def _read(part: Part) -> list[np.ndarray]:
    """The source's images: the clean one, then the others."""
    source = part.image.source
    try:
        data, others = source.read(), source.read_others()
    except (OSError, LookupError) as error:
        raise UserError(f"source {source.location} disappeared while the run was going on: run it again") from error
    if digest_of(data, others) != part.image.digest:
        raise UserError(f"source {source.location} changed while the run was going on: run it again")
    return [read_image(data), *(read_image(other) for other in others)]


def _capped(value: float) -> float:
    return min(value, HIGHEST_PSNR)
