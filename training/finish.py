"""What comes after the last step, as a Ray task: validation, picture, model card, registration."""

import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kgt.imaging import write_image
from kgt.model import KGT
from kgt.registry import model_name
from kgt.restore import NotFiniteError
from kgt.weights import load_weights
from pipelines.storage import open_store
from training import origin, provenance, tracking
from training.card import model_card
from training.plan import Job
from training.validation import ValidationSet, means


def finish(job: Job, run: str, lineage: dict[str, str]) -> dict[str, Any]:
    """Validate the weights in the run's store, log, register as `challenger`; the task's result, also written there.

    Done again, it finds the figures and the version that the run already has.

    run: the task's MLflow run. lineage: what code and run the model comes from, for tags and card.
    """
    store = open_store(job.config.out)
    with tempfile.TemporaryDirectory(prefix="kgt-finish-") as name:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        weights.write_bytes(store.get(f"{job.task}/weights.safetensors"))
        model, _ = load_weights(weights, device="cuda" if job.config.gpus_per_worker else "cpu")
        pairs = ValidationSet(job.plan, job.config.validation_pairs)
        figures, picture = _validate(pairs, model)
        steps = job.config.steps
        tracking.log_metrics_once(run, {"step": steps, **{f"val_{name}": value for name, value in figures.items()}})
        tracking.log_artifact(run, weights)
        if picture is not None:
            write_image(folder / "before-after.png", picture)
            tracking.log_artifact(run, folder / "before-after.png")
        card = model_card(job, figures, lineage)
        (folder / "CARD.md").write_text(card)
        tracking.log_artifact(run, folder / "CARD.md")
        tags = lineage | provenance.data_tags(job)
        tags |= {
            "environment": origin.environment(),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        tags |= {f"val_{name}": f"{value:.4f}" for name, value in figures.items()}
        version = tracking.version_of(job.task, run) or tracking.register(job.task, run, weights, tags=tags, card=card)
        provenance.pin(tags, f"{model_name(job.task)}-v{version}")
        tracking.set_alias(job.task, "challenger", version)
        for path in sorted(folder.iterdir()):
            store.put(f"{job.task}/{path.name}", path)
    result = {"model": model_name(job.task), "model_version": version, "mlflow_run": run, **figures}
    store.put(f"{job.task}/result.json", json.dumps(result, sort_keys=True).encode())
    return result


def _validate(pairs: ValidationSet, model: KGT) -> tuple[dict[str, float], np.ndarray | None]:
    """(the means over the pairs, and how many there are; the picture). Empty where there are none."""
    if not pairs.total:
        return {}, None
    psnr, ssim = means(pairs.scores(model))
    if not math.isfinite(psnr):
        raise NotFiniteError("the trained model's output is not finite: its weights are no good")
    before, _ = means(pairs.input_scores())
    return {"input_psnr": before, "psnr": psnr, "ssim": ssim, "pairs": float(pairs.total)}, pairs.picture(model)
