"""Challengers to decide about, and the command that decides."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from skimage import data

from kgt.config import KGTConfig
from kgt.imaging import write_image
from kgt.model import KGT
from kgt.weights import save_weights
from pipelines import versions
from pipelines.storage import open_store
from training import promote, provenance, tracking
from training.promotion import report_path

TASK = "denoise"
ASKED = [f"task={TASK}", "tasks.denoise.sigma=50", "max_latency_ratio=1000"]  # timings decide nothing here

Register = Callable[..., str]


def write_photos(folder: Path) -> None:
    """Five."""
    for number in range(5):
        pixels = np.ascontiguousarray(data.astronaut()[:64, 200 + 16 * number : 264 + 16 * number])
        write_image(folder / f"{number}.png", pixels)


def register(
    folder: Path, store: str, shift: float, task: str = TASK, tags: dict[str, str] | None = None, **shape: object
) -> str:
    """Register a version that returns its input, brighter by `shift`: the smaller, the better. The new challenger."""
    usual = {"shape": "u", "dim": 8, "layers": (1, 1), "heads": (1, 1), "window": 8}
    model = KGT(KGTConfig(**usual | shape))
    with torch.no_grad():
        list(model.network.modules())[-1].bias.fill_(shift)
    save_weights(model, folder / "weights.safetensors", metadata={"task": task})
    parent = tracking.start_run("parent")
    run = tracking.start_run("test", parent=parent)
    manifest = versions.current(open_store(store), "denoise")
    lineage = dict.fromkeys(provenance.TAGS, "known") | {"parent_run": parent, "store": store}
    lineage |= {"dataset": f"denoise/{manifest.version}", "dataset_digest": manifest.digest} | (tags or {})
    version = tracking.register(task, run, folder / "weights.safetensors", tags=lineage, card="a test")
    tracking.set_alias(task, "challenger", version)
    return version


def alias(name: str, into: str = "") -> str | None:
    found = tracking.get_alias(TASK, name, into)
    return str(found.version) if found else None


def report(into: str = "") -> dict:
    return json.loads(report_path(TASK, into).read_text())


def decide(*arguments: str, code: int = 0) -> dict:
    assert promote.main([*ASKED, *arguments]) == code
    return report("prod" if "into=prod" in arguments else "")
