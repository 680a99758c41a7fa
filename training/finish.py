"""What comes after the last step, as a Ray task: validation, picture, model card, registration."""

import hashlib
import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kgt.imaging import HIGHEST_PSNR, score, to_rgb, write_image
from kgt.model import KGT
from kgt.restore import restore
from kgt.tasks import get_task
from kgt.weights import load_weights
from pipelines import versions
from pipelines.degradations import Pair as Degraded
from pipelines.shards import Pair, decode_pair
from pipelines.storage import open_store
from training import origin, tracking
from training.card import model_card
from training.data import read_shard
from training.image_sets import baseline
from training.plan import Job

SHOWN = 4
"""Pairs in the before/after picture."""


def finish(job: Job, run: str, lineage: dict[str, str]) -> dict[str, Any]:
    """Validate the weights in the run's store, log, register as `challenger`; the task's result, also written there.

    Done again, it finds the version that the run has already registered.

    run: the task's MLflow run. lineage: what code and run the model comes from, for tags and card.
    """
    store = open_store(job.config.out)
    with tempfile.TemporaryDirectory(prefix="kgt-finish-") as name:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        weights.write_bytes(store.get(f"{job.task}/weights.safetensors"))
        model, _ = load_weights(weights, device="cuda" if job.config.gpus_per_worker else "cpu")
        figures, shown = _validate(job, model)
        steps = job.config.steps
        tracking.log_metrics(run, [{"step": steps, **{f"val_{name}": value for name, value in figures.items()}}])
        tracking.log_artifact(run, weights)
        if shown:
            write_image(folder / "before-after.png", np.concatenate(shown))
            tracking.log_artifact(run, folder / "before-after.png")
        card = model_card(job, figures, lineage)
        (folder / "CARD.md").write_text(card)
        tracking.log_artifact(run, folder / "CARD.md")
        tags = lineage | {"dataset": f"{job.task}/{job.version}", "dataset_digest": job.digest, "store": job.plan.store}
        tags |= {
            "environment": origin.environment(),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        tags |= {f"val_{name}": f"{value:.4f}" for name, value in figures.items()}
        version = tracking.version_of(job.task, run) or tracking.register(job.task, run, weights, tags=tags, card=card)
        versions.pin(open_store(job.plan.store), job.task, job.version, f"{tracking.model_name(job.task)}-v{version}")
        tracking.set_alias(job.task, "challenger", version)
        for path in sorted(folder.iterdir()):
            store.put(f"{job.task}/{path.name}", path)
    result = {"model": tracking.model_name(job.task), "model_version": version, "mlflow_run": run, **figures}
    store.put(f"{job.task}/result.json", json.dumps(result, sort_keys=True).encode())
    return result


def _validate(job: Job, model: KGT) -> tuple[dict[str, float], list[np.ndarray]]:
    """(mean PSNR in dB and SSIM over the validation pairs, by the task's protocol; rows of the picture)."""
    protocol = get_task(job.task).protocol
    rows: list[tuple[float, float, float]] = []
    shown: list[np.ndarray] = []
    for pair in _validation_pairs(job):
        restored = restore(model, pair.degraded, task=job.task)
        best, similarity = score(restored, pair.clean, protocol, model.config.scale)
        given = baseline(job.task, Degraded(pair.clean, pair.degraded, pair.meta["parameters"]))
        before, _ = score(given, pair.clean, protocol, model.config.scale)
        rows.append((min(before, HIGHEST_PSNR), min(best, HIGHEST_PSNR), similarity))
        if len(shown) < SHOWN and (not shown or shown[0].shape[1] == 3 * pair.clean.shape[1]):
            shown.append(_side_by_side(pair, restored))
    if not rows:
        return {}, []
    means = np.mean(rows, axis=0)
    names = ("input_psnr", "psnr", "ssim")
    return {**dict(zip(names, map(float, means), strict=True)), "pairs": float(len(rows))}, shown


def _validation_pairs(job: Job) -> Iterator[Pair]:
    """At most `validation_pairs`, as many of each shard."""
    shards = job.plan.validation
    each = math.ceil(job.config.validation_pairs / max(1, len(shards)))
    samples = (itertools.islice(read_shard(job.plan.store, shard), each) for shard in shards)
    for sample in itertools.islice(itertools.chain.from_iterable(samples), job.config.validation_pairs):
        yield decode_pair(sample)


def _side_by_side(pair: Pair, restored: np.ndarray) -> np.ndarray:
    """Degraded, restored and clean, uint8 (H, 3 W, 3)."""
    degraded = pair.degraded
    if degraded.dtype != np.uint8:
        degraded = np.clip(np.rint(degraded * 255), 0, 255).astype(np.uint8)
    scale = pair.clean.shape[0] // degraded.shape[0]
    degraded = degraded.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.concatenate([to_rgb(image) for image in (degraded, restored, pair.clean)], axis=1)
