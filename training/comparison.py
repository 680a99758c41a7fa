"""Whether one model restores the same images better than another, beyond what the choice of images would explain."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from training.evaluation import Row

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """mean: of one model's figures less the other's. least: what it is at the least, with the confidence asked for.

    least is -inf where a set has one image, of which nothing follows. images: how many clean ones there were.
    """

    mean: float
    least: float
    images: int


def images_needed(confidence: float) -> int:
    """How many clean images a set must have, that its differences can be evidence.

    All n agree by chance in one of 2ⁿ cases (the sign test), so with fewer no bound can be had without assumptions.
    """
    return max(2, math.ceil(-math.log2(1 - confidence)))


def paired(ours: Sequence[Row], theirs: Sequence[Row] | None, figure: str, confidence: float) -> Difference:
    """The mean difference of `figure` ("psnr", "ssim") over rows of the same images; theirs=None: against the input.

    The settings of a set (σ 15, 25, 50) share its images and are averaged first: they are no further evidence, nor are
    several degraded images of one clean one. Every set counts alike, and every clean image in it.

    The bound is one-sided, and the lower of the bootstrap's and Student's: alone, the bootstrap passes models that are
    no better too often where images are few (at 95 %: 11 % of them on five images, normal or t₃; with Student's 4 to
    5 %). Where most images gain a little and few lose much, five images still pass 18 % (with the bootstrap alone
    24 %), twenty 10 %: that much is left to who names the images.
    """
    sets: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for number, row in enumerate(ours):
        others = [image[f"input_{figure}"] for image in row.per_image]
        if theirs is not None:
            others = [image[figure] for image in theirs[number].per_image]
        own = [image[figure] for image in row.per_image]
        gains: dict[str, list[float]] = defaultdict(list)
        for image, one, other in zip(row.per_image, own, others, strict=True):
            gains[image["clean"]].append(one - other)
        sets[row.task, row.set].append([float(np.mean(alike)) for alike in gains.values()])
    differences = [np.mean(settings, axis=0) for settings in sets.values()]
    mean = float(np.mean([one.mean() for one in differences]))
    least = -math.inf
    if min(map(len, differences)) > 1:
        least = min(_bootstrap(differences, confidence), mean - _student(differences, confidence))
    return Difference(mean, least, sum(map(len, differences)))


def clean_images(row: Row) -> int:
    """How many a row was measured on, which is what counts as evidence."""
    return len({image["clean"] for image in row.per_image})


def _bootstrap(differences: Sequence[np.ndarray], confidence: float) -> float:
    """The percentile bootstrap's bound (Efron 1979), seeded: within each set its images are drawn with replacement."""
    rng = np.random.default_rng(0)
    means = [one[rng.integers(len(one), size=(RESAMPLES, len(one)))].mean(axis=1) for one in differences]
    return float(np.quantile(np.mean(means, axis=0), 1 - confidence))


def _student(differences: Sequence[np.ndarray], confidence: float) -> float:
    """How far Student's bound lies below the mean, with Welch's degrees of freedom (1947) over the sets."""
    variances = np.array([one.var(ddof=1) / len(one) for one in differences]) / len(differences) ** 2
    if not variances.any():
        return 0.0
    freedom = variances.sum() ** 2 / sum(variances**2 / [len(one) - 1 for one in differences])
    return float(stats.t.ppf(confidence, freedom) * math.sqrt(variances.sum()))
