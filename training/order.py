"""Which sample comes when: a pure function of a few integers, so that a run can stop anywhere and go on exactly.

There are V virtual streams. Every epoch deals all shards to the streams anew; a stream reads its shards whole, one
after another, through a shuffle buffer, and is endless. Sample g of the run, counted over whole (global) batches, is
the next one of stream g mod V. A worker of W takes the streams v ≡ rank (mod W). So where W divides V and the batch,
the very same batches come out for every number of workers, and no two workers read the same shard in one epoch.

Of several datasets each is dealt to all V streams in that way, with epochs of its own. From which of them a stream's
next sample comes is a fixed pattern, so that how many of each it has given out needs no counting.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from kgt.errors import UserError

_ROUND = (48, 24, 12, 6, 4, 3, 2, 1)
"""Stream counts with many divisors; more would only cut the shuffle buffer into smaller pieces."""

Seed = int | str
"""Of a dataset's order."""

Place = tuple[int, int]
"""A sample: (index of its shard in the manifest, its index in the shard)."""


def choose_streams(shards: int, workers: int, wanted: int = 0, *, of: str = "the dataset") -> int:
    """V: `wanted`, or (0) the largest round number that gives every stream a shard, for any number of workers.

    shards: of the dataset that has the fewest; of: how it is called.

    Raises UserError where the shards do not reach for the workers, or V does not divide among them.
    """
    streams = wanted or next(count for count in _ROUND if count <= shards)
    if streams > shards:
        raise UserError(f"streams={streams}: {of} has {_count(shards)}, and every stream needs one")
    if shards < workers:
        raise UserError(
            f"{of} has {_count(shards)}, which cannot feed {workers} workers, as no two read the same one: "
            f"use workers={streams}, or make more shards (pipelines/synthesize.py shards_min={workers})"
        )
    if streams % workers:
        fitting = ", ".join(str(count) for count in range(1, streams + 1) if streams % count == 0)
        other = "" if wanted else f", or streams={shards // workers * workers} for another order of the data"
        raise UserError(f"workers={workers} cannot share {streams} streams evenly: use workers of {fitting}{other}")
    return streams


def rng_of(*names: object) -> np.random.Generator:
    """A generator that is a function of the names alone."""
    digest = hashlib.blake2b(":".join(map(str, names)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


@cache
def pattern(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Datasets in their turns: d stands weights[d] times in it, spread evenly.

    Smooth weighted round robin, as nginx balances its servers.
    """
    total, credits, turns = sum(weights), [0] * len(weights), []
    for _ in range(total):
        credits = [credit + weight for credit, weight in zip(credits, weights, strict=True)]
        turns.append(max(range(len(weights)), key=credits.__getitem__))
        credits[turns[-1]] -= total
    return tuple(turns)


def dataset_of(weights: tuple[int, ...], stream: int, position: int) -> int:
    """The dataset of the stream's sample number `position`. Streams begin one turn apart, so that batches mix, too."""
    turns = pattern(weights)
    return turns[(stream + position) % len(turns)]


def given_out(weights: tuple[int, ...], stream: int, position: int) -> list[int]:
    """How many samples of each dataset the stream gives out before its sample number `position`."""
    periods, rest = divmod(position, sum(weights))
    begun = [dataset_of(weights, stream, turn) for turn in range(rest)]
    return [periods * weight + begun.count(dataset) for dataset, weight in enumerate(weights)]


def stream_shards(shards: int, streams: int, stream: int, seed: Seed, epoch: int) -> list[int]:
    """The shards that one stream reads in one epoch, in order. Over the streams: every shard once."""
    return rng_of("shards", seed, epoch).permutation(shards)[stream::streams].tolist()


def epoch_order(
    sizes: Sequence[int], streams: int, stream: int, seed: Seed, epoch: int, buffer: int
) -> tuple[list[int], list[Place]]:
    """(shards in reading order, samples in the order they are given out) of one stream's epoch.

    sizes: samples of every shard. buffer: how many samples the stream may hold back to shuffle them.
    """
    shards = stream_shards(len(sizes), streams, stream, seed, epoch)
    rng = rng_of("shuffle", seed, epoch, stream)
    held: list[Place] = []
    out: list[Place] = []
    for place in ((shard, index) for shard in shards for index in range(sizes[shard])):
        held.append(place)
        if len(held) >= buffer:
            out.append(_take(held, rng))
    while held:
        out.append(_take(held, rng))
    return shards, out


def locate(sizes: Sequence[int], streams: int, stream: int, seed: Seed, position: int) -> tuple[int, int]:
    """(epoch, samples given out before in that epoch) of the stream's sample number `position`, counted from 0."""
    epoch = 0
    while True:
        length = sum(sizes[shard] for shard in stream_shards(len(sizes), streams, stream, seed, epoch))
        if position < length:
            return epoch, position
        position -= length
        epoch += 1


def share(start: int, stop: int, rank: int, workers: int) -> range:
    """The samples g in [start, stop) that worker `rank` of `workers` makes. `start` is a multiple of `workers`."""
    return range(start + rank, stop, workers)


def consumed(samples: int, streams: int) -> list[int]:
    """How many samples each stream has given out when the run has used `samples` in all."""
    return [(samples - stream + streams - 1) // streams for stream in range(streams)]


def _count(shards: int) -> str:
    return f"{shards} shard{'s' if shards != 1 else ''}"


def _take(held: list[Place], rng: np.random.Generator) -> Place:
    chosen = int(rng.integers(len(held)))
    held[chosen], held[-1] = held[-1], held[chosen]
    return held.pop()
