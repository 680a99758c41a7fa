"""From a version's shards to batches: webdataset reads what `order.py` plans, a thread decodes and augments ahead."""

import io
import queue
import re
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from kgt.errors import UserError
from pipelines.shards import HashedReader, Pair, ShardError, decode_pair
from pipelines.storage import open_store
from training.augment import training_patch
from training.order import Place, consumed, epoch_order, locate, rng_of, share
from training.plan import DataPlan, Shard

_MEMBER = re.compile(r"[A-Za-z0-9_-]+\.((clean|degraded)\.(webp|tiff)|json)", re.ASCII)


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step's batch: degraded (B, in, h, w), clean (B, out, H, W), float32, 1 for white."""

    degraded: Tensor
    clean: Tensor


def batches(plan: DataPlan, *, rank: int, workers: int, step: int) -> Iterator[Batch]:
    """Endless batches of worker `rank`, from step `step` on: the same whether or not the run was ever interrupted."""
    start = plan.samples(step)
    given = consumed(start, plan.streams)
    readers = {v: stream_samples(plan, v, given[v]) for v in range(rank, plan.streams, workers)}
    while True:
        phase, pairs = plan.phase(step), []
        for sample in share(start, start + phase.batch_size, rank, workers):
            pair = _decoded(next(readers[sample % plan.streams]))
            rng = rng_of("augment", plan.seed, sample)
            pairs.append(training_patch(plan.task, pair, phase.patch, rng, plan.redraw))
        start, step = start + phase.batch_size, step + 1
        degraded, clean = (torch.from_numpy(np.stack(images)) for images in zip(*pairs, strict=True))
        yield Batch(degraded, clean)


def stream_samples(plan: DataPlan, stream: int, position: int) -> Iterator[dict[str, Any]]:
    """The endless samples of one stream, undecoded, from its sample number `position` on."""
    sizes = [shard.samples for shard in plan.shards]
    buffer = -(-plan.shuffle // plan.streams)
    epoch, skip = locate(sizes, plan.streams, stream, plan.seed, position)
    while True:
        shards, order = epoch_order(sizes, plan.streams, stream, plan.seed, epoch, buffer)
        yield from _read_in_order(plan, shards, order[skip:])
        epoch, skip = epoch + 1, 0


def _read_in_order(plan: DataPlan, shards: list[int], order: list[Place]) -> Iterator[dict[str, Any]]:
    """The samples of `order`, reading each shard that is still needed once and holding back what comes later."""
    wanted = set(order)
    needed = {shard for shard, _ in order}
    incoming = (
        ((shard, index), sample)
        for shard in shards
        if shard in needed
        for index, sample in enumerate(read_shard(plan.store, plan.shards[shard]))
    )
    held: dict[Place, dict[str, Any]] = {}
    for place in order:
        while place not in held:
            read, sample = next(incoming, (None, None))
            if read is None:
                shard = plan.shards[place[0]]
                raise ShardError(f"{shard.key} has fewer samples than the {shard.samples} of its version")
            if read in wanted:
                held[read] = sample
        yield held.pop(place)
    for _ in incoming:  # to the end of the last shard, where its SHA-256 is compared
        pass


def read_shard(store: str, shard: Shard) -> Iterator[dict[str, Any]]:
    """The samples of one shard as webdataset gives them. Raises UserError where it is not as it was published.

    Its size is compared before the first sample, its SHA-256 after the last: who stops earlier has not checked it.
    """
    address = f"{store}/{shard.key}"
    found = open_store(store).head(shard.key)
    if found is None or found.size != shard.bytes:
        what = "is gone" if found is None else f"has {found.size} bytes, not {shard.bytes}"
        raise _spoilt(address, what)
    with open_store(store).open(shard.key) as file, io.BufferedReader(HashedReader(file), 1 << 20) as stream:
        try:
            source = [{"url": address, "stream": stream}]
            yield from group_by_keys(tar_file_expander(source, select_files=_MEMBER.fullmatch))
        except (tarfile.TarError, ValueError) as error:
            raise _spoilt(address, "is not as it was published") from error
        while stream.read(1 << 20):  # a tar ends before its file does
            pass
        if stream.raw.sha256.hexdigest() != shard.sha256:
            raise _spoilt(address, "has another SHA-256 than it was published with")


def _decoded(sample: dict[str, Any]) -> Pair:
    try:
        return decode_pair(sample)
    except ShardError as error:
        raise _spoilt(sample["__url__"], f"is damaged ({error})") from error


def _spoilt(address: str, what: str) -> UserError:
    return UserError(f"shard {address} {what}: run pipelines/datasets.py verify, or synthesize again")


class Prefetcher:
    """Makes batches in a thread, a few ahead. `waited` is how long the last `next()` had to wait, in seconds."""

    def __init__(self, source: Iterator[Batch], ahead: int = 3) -> None:
        self.waited = 0.0
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(source,), name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        started = time.perf_counter()
        item = self._queue.get()
        self.waited = time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _fill(self, source: Iterator[Batch]) -> None:
        try:
            while not self._stop.is_set():
                self._queue.put(next(source))
        except BaseException as error:  # noqa: BLE001 - raised where the batch is asked for
            self._queue.put(error)
