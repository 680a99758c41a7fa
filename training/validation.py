"""How good a model is on the val split of the shards it trains on: a fixed set of pairs, by the task's protocol."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kgt.imaging import HIGHEST_PSNR, score, to_rgb
from kgt.model import KGT
from kgt.restore import NotFiniteError, restore
from kgt.tasks import get_task
from pipelines.degradations import Pair as Degraded
from pipelines.shards import Pair, decode_pair
from training.data import read_shard
from training.image_sets import baseline
from training.plan import DataPlan, Dataset, Job

SHOWN = 4
"""Pairs in the before/after picture."""


@dataclass(frozen=True)
class Scores:
    """One pair's, in dB (`HIGHEST_PSNR` at most) and SSIM. input_psnr: of what was restored."""

    input_psnr: float
    psnr: float
    ssim: float


class ValidationSet:
    """The pairs that every validation of a run looks at, or one worker's share of them; they are decoded once."""

    def __init__(self, plan: DataPlan, most: int, *, rank: int = 0, workers: int = 1) -> None:
        """most: pairs over all workers. rank: takes every pair whose number is congruent to it."""
        self._task = plan.task
        self._pairs = [decode_pair(sample) for sample in itertools.islice(_samples(plan, most), rank, None, workers)]
        self._protocol = get_task(plan.task).protocol

    def scores(self, model: nn.Module, k: int | None = None) -> list[Scores]:
        """Those of every pair, restored with `k` neighbours of 1024. NaN where the model's output is not finite."""
        return [self._score(model, pair, k) for pair in self._pairs]

    def picture(self, model: nn.Module) -> np.ndarray | None:
        """Degraded, restored, clean side by side: the first pairs of the same width, uint8 (H, W, 3)."""
        rows: list[np.ndarray] = []
        for pair in self._pairs[:SHOWN]:
            row = _side_by_side(pair, restore(model, pair.degraded, task=self._task))
            if not rows or row.shape[1] == rows[0].shape[1]:
                rows.append(row)
        return np.concatenate(rows) if rows else None

    def _score(self, model: nn.Module, pair: Pair, k: int | None) -> Scores:
        scale = model.config.scale
        given = baseline(self._task, Degraded(pair.clean, pair.degraded, pair.meta["parameters"]))
        before, _ = score(given, pair.clean, self._protocol, scale)
        try:
            restored = restore(model, pair.degraded, task=self._task, k=k)
        except NotFiniteError:
            return Scores(min(before, HIGHEST_PSNR), math.nan, math.nan)
        after, similarity = score(restored, pair.clean, self._protocol, scale)
        return Scores(min(before, HIGHEST_PSNR), min(after, HIGHEST_PSNR), similarity)


class Validator:
    """One worker's part of a run's validations in training. Every worker has one, and calls it at the same steps."""

    def __init__(self, job: Job, device: torch.device) -> None:
        most, rank, workers = job.config.validation_pairs, dist.get_rank(), dist.get_world_size()
        self._pairs = ValidationSet(job.plan, most, rank=rank, workers=workers)
        self._ks = [None, *(k for k in job.config.validated_k() if k != job.model.topk)]
        self._model = KGT(job.model).to(device).eval()

    def figures(self, weights: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> dict[str, float]:
        """PSNR and SSIM, the same on all workers, of the average (`val_psnr`) and of the weights (`val_raw_psnr`).

        Those with other numbers of neighbours than the model's own end in `_k64` and so on.
        """
        found = {}
        for kind, values in (("val_raw_", weights), ("val_", average)):
            self._model.load_state_dict(values)
            for k in self._ks:
                shares: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(shares, self._pairs.scores(self._model, k))
                in_order = itertools.chain.from_iterable(itertools.zip_longest(*shares))
                mean = means([scores for scores in in_order if scores is not None])
                end = "" if k is None else f"_k{k}"
                found |= {f"{kind}{name}{end}": mean[name] for name in ("psnr", "ssim")}
        return found

    def picture(self) -> np.ndarray | None:
        """See ValidationSet; of the average that was last measured."""
        return self._pairs.picture(self._model)


def means(scores: Sequence[Scores]) -> dict[str, float]:
    """`input_psnr`, `psnr` and `ssim`, averaged over the pairs."""
    return {name: float(np.mean([getattr(each, name) for each in scores])) for name in ("input_psnr", "psnr", "ssim")}


def _samples(plan: DataPlan, most: int) -> Iterator[dict[str, Any]]:
    """At most so many samples of the val splits, as many of each dataset, and of each of its shards."""
    datasets = [dataset for dataset in plan.datasets if dataset.validation]
    samples = (_samples_of(dataset, math.ceil(most / len(datasets))) for dataset in datasets)
    return itertools.islice(itertools.chain.from_iterable(samples), most)


def _samples_of(dataset: Dataset, most: int) -> Iterator[dict[str, Any]]:
    each = math.ceil(most / len(dataset.validation))
    shards = (itertools.islice(read_shard(dataset.store, shard), each) for shard in dataset.validation)
    return itertools.islice(itertools.chain.from_iterable(shards), most)


def _side_by_side(pair: Pair, restored: np.ndarray) -> np.ndarray:
    """Degraded, restored and clean, uint8 (H, 3 W, 3)."""
    degraded = pair.degraded
    if degraded.dtype != np.uint8:
        degraded = np.clip(np.rint(degraded * 255), 0, 255).astype(np.uint8)
    scale = pair.clean.shape[0] // degraded.shape[0]
    degraded = degraded.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.concatenate([to_rgb(image) for image in (degraded, restored, pair.clean)], axis=1)
