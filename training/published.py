"""The paper's own figures, to stand beside ours."""

from functools import cache
from pathlib import Path

import yaml

SUFFIXES = {"weather": "_y"}
"""Which of a row's figures the paper's are to be compared with, where it is not the task's first: the field scores
weather on luma."""


def figures(task: str, images: str, setting: str) -> dict[str, float]:
    """PSNR in dB by the model's name, for a test set's folder (or `folder/part`) and setting; empty if none is known.

    Source: `published.yaml`.
    """
    sets = _table().get(task, {})
    (found, *_) = [sets[part] for part in images.split("/") if part in sets] or [{}]
    return dict(found.get(setting, {}))


@cache
def _table() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
