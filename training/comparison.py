"""Whether one model restores the same images better than another, beyond what the choice of images would explain."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation import Row

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """mean: of one model's figures less the other's. least: what it is at the least, with the confidence asked for.

    images: how many there were.
    """

    mean: float
    least: float
    images: int


def paired(ours: Sequence[Row], theirs: Sequence[Row] | None, figure: str, confidence: float) -> Difference:
    """The mean difference of `figure` ("psnr", "ssim") over rows of the same images; theirs=None: against the input.

    Percentile bootstrap (Efron 1979) of the images' differences, seeded: within each set its images are drawn with
    replacement. The settings of a set (σ 15, 25, 50) share its images and are averaged first: they are no further
    evidence. The bound is one-sided.
    """
    sets: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for number, row in enumerate(ours):
        others = [image[f"input_{figure}"] for image in row.per_image]
        if theirs is not None:
            others = [image[figure] for image in theirs[number].per_image]
        own = [image[figure] for image in row.per_image]
        sets[row.task, row.set].append([a - b for a, b in zip(own, others, strict=True)])
    differences = [np.mean(settings, axis=0) for settings in sets.values()]
    rng = np.random.default_rng(0)
    means = np.mean(
        [one[rng.integers(len(one), size=(RESAMPLES, len(one)))].mean(axis=1) for one in differences], axis=0
    )
    mean = float(np.mean([one.mean() for one in differences]))
    return Difference(mean, float(np.quantile(means, 1 - confidence)), sum(map(len, differences)))
