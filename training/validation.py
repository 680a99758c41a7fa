"""How good a model is on the val split of the shards it trains on: a fixed set of pairs, by the task's protocol."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from pipelines.shards import Pair
from training.data import decoded, read_shard
from training.image_sets import baseline
from training.plan import DataPlan, Dataset, Job

SHOWN = 4
"""Pairs in the before/after picture."""


Score = tuple[float, float]
"""One pair's PSNR in dB (`HIGHEST_PSNR` at most) and SSIM, as the task's protocol has them."""


class ValidationSet:
    """The pairs that every validation of a run looks at, or one worker's share of them; they are decoded once.

    total: over all workers.
    """

    def __init__(self, plan: DataPlan, most: int, *, rank: int = 0, workers: int = 1) -> None:
        """most: pairs over all workers. rank: takes every pair whose number is congruent to it."""
        self._task = plan.task
        self._protocol = get_task(plan.task).protocol
        self._pairs: list[Pair] = []
        self.total = 0
        for sample in _samples(plan, most):
            if self.total % workers == rank:
                self._pairs.append(decoded(sample))
            self.total += 1

    def scores(self, model: nn.Module, k: int | None = None) -> Iterator[Score]:
        """Those of every pair, restored with `k` neighbours of 1024. NaN where the model's output is not finite."""
        for pair in self._pairs:
            try:
                yield self._score(restore(model, pair.degraded, task=self._task, k=k), pair)
            except NotFiniteError:
                yield math.nan, math.nan

    def input_scores(self) -> Iterator[Score]:
        """Those of every pair as it is: enlarged for sr, interpolated for demosaic."""
        for pair in self._pairs:
            degraded = Degraded(pair.clean, pair.degraded, pair.meta["parameters"])
            yield self._score(baseline(self._task, degraded), pair)

    def picture(self, model: nn.Module) -> np.ndarray | None:
        """Degraded, restored, clean side by side: the first pairs of the same width, uint8 (H, W, 3)."""
        rows: list[np.ndarray] = []
        for pair in self._pairs[:SHOWN]:
            row = _side_by_side(pair, restore(model, pair.degraded, task=self._task))
            if not rows or row.shape[1] == rows[0].shape[1]:
                rows.append(row)
        return np.concatenate(rows) if rows else None

    def _score(self, image: np.ndarray, pair: Pair) -> Score:
        psnr, ssim = score(image, pair.clean, self._protocol, pair.clean.shape[0] // pair.degraded.shape[0])
        return min(psnr, HIGHEST_PSNR), ssim


class Validator:
    """One worker's part of a run's validations in training. Every worker has one, and calls it at the same steps."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self._workers = dist.get_world_size()
        most = job.config.validation_pairs
        self._pairs = ValidationSet(job.plan, most, rank=dist.get_rank(), workers=self._workers)
        self._ks = [None, *(k for k in job.config.validated_k() if k != job.model.topk)]
        self._model = KGT(job.model).to(device).eval()

    def figures(
        self, weights: Mapping[str, Tensor], average: Mapping[str, Tensor], stop: Callable[[], bool]
    ) -> dict[str, float] | None:
        """PSNR and SSIM, the same on all workers, of the average (`val_psnr`) and of the weights (`val_raw_psnr`).

        Those with other numbers of neighbours than the model's own end in `_k64` and so on. stop: asked by all workers
        between pairs, with the same answer on all; None then.
        """
        found = {}
        for kind, values in (("val_raw_", weights), ("val_", average)):
            self._model.load_state_dict(values)
            for k in self._ks:
                own, left = [], self._pairs.scores(self._model, k)
                for _ in range(math.ceil(self._pairs.total / self._workers)):
                    if stop():
                        return None
                    own += itertools.islice(left, 1)
                psnr, ssim = means(self._in_order(own))
                end = "" if k is None else f"_k{k}"
                found |= {f"{kind}psnr{end}": psnr, f"{kind}ssim{end}": ssim}
        return found

    def picture(self) -> np.ndarray | None:
        """See ValidationSet; of the average that was last measured."""
        return self._pairs.picture(self._model)

    def _in_order(self, own: list[Score]) -> list[Score]:
        """All workers' scores, pair by pair, so that their mean does not depend on how many workers there are."""
        shares: list[Any] = [None] * self._workers
        dist.all_gather_object(shares, own)
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*shares))
        return [scores for scores in in_turn if scores is not None]


def means(scores: Iterable[Score]) -> Score:
    """Averaged over the pairs."""
    psnr, ssim = np.mean(list(scores), axis=0).tolist()
    return psnr, ssim


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
