"""From versions' shards to batches: read as `order.py` plans, decoded and augmented ahead by threads."""

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kgt.errors import UserError
from pipelines.shards import Pair, ShardError, decode_pair, read_published
from pipelines.storage import open_store
from training.augment import training_patch
from training.order import Place, consumed, dataset_of, epoch_order, given_out, locate, rng_of, share
from training.plan import DataPlan, Dataset, Shard

Patch = tuple[np.ndarray, np.ndarray]
"""(degraded, clean), see `augment.training_patch`."""

MakePatch = Callable[[], Patch]


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step's batch: degraded (B, in, h, w), clean (B, out, H, W), float32, 1 for white."""

    degraded: Tensor
    clean: Tensor


def batches(plan: DataPlan, *, rank: int, workers: int, step: int) -> Iterator[Batch]:
    """Endless batches of worker `rank`, from step `step` on: the same whether or not the run was ever interrupted."""
    for patches in undone_batches(plan, rank=rank, workers=workers, step=step):
        yield _batch([make() for make in patches])


def undone_batches(plan: DataPlan, *, rank: int, workers: int, step: int) -> Iterator[list[MakePatch]]:
    """The same batches as `batches`, read but not decoded and augmented: calls that may be made in any order."""
    start = plan.samples(step)
    given = consumed(start, plan.streams)
    readers = {v: stream_samples(plan, v, given[v]) for v in range(rank, plan.streams, workers)}
    while True:
        phase = plan.phase(step)
        mine = share(start, start + phase.batch_size, rank, workers)
        yield [partial(_patch, plan, *next(readers[g % plan.streams]), g, phase.patch) for g in mine]
        start, step = start + phase.batch_size, step + 1


def _patch(plan: DataPlan, dataset: Dataset, sample: dict[str, Any], number: int, patch: int) -> Patch:
    """The run's sample of that number, decoded and augmented."""
    return training_patch(plan.task, decoded(sample), patch, rng_of("augment", plan.seed, number), dataset.redraw)


def _batch(patches: list[Patch]) -> Batch:
    degraded, clean = (torch.from_numpy(np.stack(images)) for images in zip(*patches, strict=True))
    return Batch(degraded, clean)


def stream_samples(plan: DataPlan, stream: int, position: int) -> Iterator[tuple[Dataset, dict[str, Any]]]:
    """The endless samples of one stream, undecoded, from its sample number `position` on, each with its dataset."""
    given = given_out(plan.weights, stream, position)
    readers = [_dataset_samples(plan, index, stream, before) for index, before in enumerate(given)]
    for number in itertools.count(position):
        index = dataset_of(plan.weights, stream, number)
        yield plan.datasets[index], next(readers[index])


def _dataset_samples(plan: DataPlan, index: int, stream: int, position: int) -> Iterator[dict[str, Any]]:
    """What the stream reads of one dataset, from the sample number `position` on that it reads of it."""
    dataset = plan.datasets[index]
    sizes = [shard.samples for shard in dataset.shards]
    buffer = math.ceil(plan.shuffle * dataset.weight / (plan.streams * sum(plan.weights)))
    # Else two datasets of the same photographs would give out the same ones at the same time.
    seed = f"{plan.seed}/{index}" if index else plan.seed
    epoch, skip = locate(sizes, plan.streams, stream, seed, position)
    while True:
        shards, order = epoch_order(sizes, plan.streams, stream, seed, epoch, buffer)
        yield from _read_in_order(dataset, shards, order[skip:])
        epoch, skip = epoch + 1, 0


def _read_in_order(dataset: Dataset, shards: list[int], order: list[Place]) -> Iterator[dict[str, Any]]:
    """The samples of `order`, reading each shard that is still needed once and holding back what comes later."""
    wanted = set(order)
    needed = {shard for shard, _ in order}
    incoming = (
        ((shard, index), sample)
        for shard in shards
        if shard in needed
        for index, sample in enumerate(read_shard(dataset.store, dataset.shards[shard]))
    )
    held: dict[Place, dict[str, Any]] = {}
    for place in order:
        while place not in held:
            read, sample = next(incoming, (None, None))
            if read is None:
                shard = dataset.shards[place[0]]
                raise ShardError(f"{shard.key} has fewer samples than the {shard.samples} of its version")
            if read in wanted:
                held[read] = sample
        yield held.pop(place)
    for _ in incoming:  # to the end of the last shard, where its SHA-256 is compared
        pass


def read_shard(store: str, shard: Shard) -> Iterator[dict[str, Any]]:
    """The samples of one shard, of bounded size (see `pipelines.shards`), with the shard's address as `__url__`.

    Raises UserError where it is not as it was published.

    Its size is compared before the first sample, its SHA-256 after the last: who stops earlier has not checked it.
    """
    address = f"{store}/{shard.key}"
    found = open_store(store).head(shard.key)
    if found is None or found.size != shard.bytes:
        what = "is gone" if found is None else f"has {found.size} bytes, not {shard.bytes}"
        raise _spoilt(address, what)
    with open_store(store).open(shard.key) as file:
        try:
            for sample in read_published(file, shard.sha256):
                yield {**sample, "__url__": address}
        except ShardError as error:
            raise _spoilt(address, f"is not as it was published ({error})") from error


def decoded(sample: dict[str, Any]) -> Pair:
    """The sample as a pair. Raises UserError, which names the shard."""
    try:
        return decode_pair(sample)
    except ShardError as error:
        raise _spoilt(sample["__url__"], f"is damaged ({error})") from error


def _spoilt(address: str, what: str) -> UserError:
    return UserError(f"shard {address} {what}: run pipelines/datasets.py verify, or synthesize again")


class Prefetcher:
    """Makes batches a few ahead, in order: one thread reads, `threads` others decode and augment.

    `waited` is how long the last `next()` had to wait, in seconds. An error is raised where its batch is asked for.
    """

    def __init__(self, source: Iterator[list[MakePatch]], threads: int = 1, ahead: int = 3) -> None:
        """source: see `undone_batches`."""
        self.waited = 0.0
        self._queue: queue.Queue[Future[Batch]] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads, "loader")
        self._thread = threading.Thread(target=self._fill, args=(source,), name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = self._queue.get().result()
        self.waited = time.perf_counter() - started
        return batch

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._pool.shutdown(cancel_futures=True)

    def _fill(self, source: Iterator[list[MakePatch]]) -> None:
        try:
            while not self._stop.is_set():
                patches = [self._pool.submit(make) for make in next(source)]
                # It comes after its patches in the pool's queue, so it waits only for what is being made already.
                self._queue.put(self._pool.submit(_gather, patches))
        except BaseException as error:  # noqa: BLE001 - raised where the batch is asked for
            failed: Future[Batch] = Future()
            failed.set_exception(error)
            self._queue.put(failed)


def _gather(patches: list[Future[Patch]]) -> Batch:
    return _batch([patch.result() for patch in patches])
