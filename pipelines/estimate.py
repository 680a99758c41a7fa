"""What a plan will cost, from a few of its pairs made here and now."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2

from pipelines.plan import PlannedShard
from pipelines.preview import some_pairs
from pipelines.shards import encode_pair
from pipelines.synthesis import input_psnr, pairs_of

IMAGES = 6


@dataclass(frozen=True)
class Estimate:
    """Of a whole plan: bytes, and seconds of one core."""

    bytes: float
    core_seconds: float


def estimate(shards: Sequence[PlannedShard]) -> Estimate:
    """Make two pairs of each of `IMAGES` images that are evenly spread over the plan, encode them, and multiply."""
    cv2.setNumThreads(1)
    sizes, seconds = [], []
    for turn, (shard, part) in enumerate([*some_pairs(shards, 1), *some_pairs(shards, IMAGES)]):
        start = time.perf_counter()
        pairs = pairs_of(part, shard)
        made = [_encoded(shard, next(pairs))]
        first = time.perf_counter() - start
        made += [_encoded(shard, pair) for pair in [next(pairs, None)] if pair]
        second = time.perf_counter() - start - first if len(made) > 1 else first
        if turn:  # the first image loads what a process loads once
            seconds.append(second + max(0.0, first - second) / (part.last - part.first))  # an image is read once
            sizes += made
    samples = sum(shard.samples for shard in shards)
    return Estimate(samples * sum(sizes) / len(sizes), samples * sum(seconds) / len(seconds))


def _encoded(shard: PlannedShard, pair: tuple) -> int:
    key, images, record = pair
    input_psnr(shard.recipe.task, images)
    sample = encode_pair(key, images.clean, images.degraded, record)
    return sum(len(member) for name, member in sample.items() if name != "__key__")
