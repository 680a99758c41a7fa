"""Batches from real shards."""

import gzip
import hashlib
import itertools
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kgt.errors import UserError
from pipelines.degradations import settings_of
from pipelines.storage import open_store
from pipelines.versions import SPLITS, current
from training import data
from training.data import Batch, MakePatch, Prefetcher, batches, stream_samples, undone_batches
from training.phases import Phase
from training.plan import DataPlan, Dataset, Shard


def dataset_of(store: str, task: str = "denoise", **changes: object) -> Dataset:
    """The newest version of the store."""
    manifest = current(open_store(store), task)
    train, validation = (
        tuple(Shard(manifest.key(s), s.samples, s.bytes, s.sha256) for s in manifest.split(split)) for split in SPLITS
    )
    return Dataset(store, manifest.version, manifest.digest, train, validation, **changes)


def plan_of(*datasets: Dataset | str, task: str = "denoise", **changes: object) -> DataPlan:
    """Of datasets, or of the stores that hold them."""
    found = tuple(dataset_of(given, task) if isinstance(given, str) else given for given in datasets)
    phases = (Phase(0, changes.pop("patch", 16), changes.pop("batch_size", 4)),)
    values = {"streams": 4, "seed": 3, "phases": phases, "shuffle": 12} | changes
    return DataPlan(task=task, datasets=found, **values)


def take(plan: DataPlan, count: int, *, rank: int = 0, workers: int = 1, step: int = 0) -> list[Batch]:
    return list(itertools.islice(batches(plan, rank=rank, workers=workers, step=step), count))


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.degraded, b.degraded) and torch.equal(a.clean, b.clean)


def test_batches_have_the_shapes_and_ranges_of_the_task(denoise_store: str) -> None:
    (batch,) = take(plan_of(denoise_store), 1)
    assert batch.degraded.shape == batch.clean.shape == (4, 3, 16, 16)
    assert batch.degraded.dtype == batch.clean.dtype == torch.float32
    assert batch.clean.min() >= 0
    assert batch.clean.max() <= 1
    assert (batch.degraded - batch.clean).std() == pytest.approx(25 / 255, rel=0.1)


@pytest.mark.parametrize("step", [1, 5, 6, 7, 13])
def test_a_resumed_run_sees_what_it_would_have_seen(denoise_store: str, step: int) -> None:
    """24 samples, 4 a step: step 6 begins the second epoch."""
    plan = plan_of(denoise_store)
    whole = take(plan, 16)
    assert all(map(equal, take(plan, 16 - step, step=step), whole[step:]))


PROGRESSIVE = (Phase(0, 16, 8), Phase(2, 24, 4), Phase(5, 32, 4))


def test_patches_grow_while_batches_shrink(denoise_store: str) -> None:
    taken = take(plan_of(denoise_store, phases=PROGRESSIVE), 7)
    sizes = [(len(batch.clean), batch.clean.shape[-1]) for batch in taken]
    assert sizes == [(8, 16)] * 2 + [(4, 24)] * 3 + [(4, 32)] * 2


@pytest.mark.parametrize("step", range(1, 8))
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_resumed_in_any_phase_sees_what_it_would_have_seen(denoise_store: str, step: int, workers: int) -> None:
    """On one worker or two, whatever it was before: 24 samples an epoch, of which the last step begins the second."""
    plan = plan_of(denoise_store, phases=PROGRESSIVE)
    whole = take(plan, 8)
    for rank in range(workers):
        shares = take(plan, 8 - step, rank=rank, workers=workers, step=step)
        for batch, expected in zip(shares, whole[step:], strict=True):
            assert torch.equal(batch.degraded, expected.degraded[rank::workers])


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_makes_the_same_global_batches(denoise_store: str, workers: int) -> None:
    plan = plan_of(denoise_store)
    alone = take(plan, 9)
    shares = [take(plan, 9, rank=rank, workers=workers) for rank in range(workers)]
    for step, batch in enumerate(alone):
        for rank in range(workers):
            assert torch.equal(shares[rank][step].degraded, batch.degraded[rank::workers])


def test_an_epoch_reads_every_stored_pair_once(denoise_store: str) -> None:
    plan = plan_of(denoise_store)
    keys = [s["__key__"] for v in range(4) for _, s in itertools.islice(stream_samples(plan, v, 0), 6)]
    assert len(set(keys)) == len(keys) == 24


def test_workers_never_read_the_same_shard_in_an_epoch(denoise_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, read, original = plan_of(denoise_store, batch_size=24), [], data.read_shard
    monkeypatch.setattr(data, "read_shard", lambda store, shard: read.append(shard.key) or original(store, shard))
    for rank in range(2):
        take(plan, 1, rank=rank, workers=2)
    assert sorted(read) == sorted(shard.key for shard in plan.datasets[0].shards)


def test_redraw_gives_other_noise_on_the_same_clean_patches(denoise_store: str) -> None:
    redraw = settings_of("denoise", {"sigma": 5})
    stored, fresh = plan_of(denoise_store), plan_of(dataset_of(denoise_store, redraw=redraw))
    a, b = take(stored, 1)[0], take(fresh, 1)[0]
    assert torch.equal(a.clean, b.clean)
    assert (b.degraded - b.clean).std() == pytest.approx(5 / 255, rel=0.1)


def test_sr_patches_keep_their_scale(make_shards: object) -> None:
    (batch,) = take(plan_of(make_shards("sr", side=48), task="sr", patch=12), 1)
    assert batch.degraded.shape == (4, 3, 12, 12)
    assert batch.clean.shape == (4, 3, 24, 24)


def test_shards_in_s3_give_the_same_batches(denoise_store: str, make_shards: object, s3_bucket: str) -> None:
    store = make_shards("denoise", store=f"s3://{s3_bucket}/some/shards", sigma=25)
    assert all(map(equal, take(plan_of(store), 8), take(plan_of(denoise_store), 8)))


def test_a_shard_of_another_size_is_refused(make_shards: object) -> None:
    store = make_shards("denoise", shards=2)
    plan = plan_of(store, streams=2)
    path = Path(store.removeprefix("file://")) / plan.datasets[0].shards[0].key
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"has .* bytes, not"):
        take(plan, 3)
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        take(plan, 3)


def sparse(size: int) -> bytes:
    """A tar of one GNU sparse member: some bytes that stand for `size` of them."""
    member = tarfile.TarInfo("a.clean.webp")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = f"{size:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize("bomb", [gzip.compress(bytes(1 << 24)), sparse(1 << 32)], ids=["gzip", "sparse"])
def test_a_shard_that_would_grow_is_refused_before_it_does(tmp_path: Path, bomb: bytes) -> None:
    """Its size and SHA-256 are those of its manifest, which may have been forged with it."""
    (tmp_path / "shard.tar").write_bytes(bomb)
    shard = Shard("shard.tar", 1, len(bomb), hashlib.sha256(bomb).hexdigest())
    with pytest.raises(UserError, match=r"shard\.tar is not as it was published"):
        list(data.read_shard(f"file://{tmp_path}", shard))


@pytest.mark.parametrize("where", ["noise", "first header", "header", "end"])
def test_a_shard_of_the_same_size_but_other_bytes_is_refused(denoise_store: str, tmp_path: Path, where: str) -> None:
    """Within the first epoch, whose last step leaves the last samples of all four shards to be given out."""
    shutil.copytree(Path(denoise_store.removeprefix("file://")), tmp_path / "store")
    plan = plan_of(f"file://{tmp_path}/store")
    shard = plan.datasets[0].shards[2]
    path = tmp_path / "store" / shard.key
    tar = bytearray(path.read_bytes())
    with tarfile.open(path) as members:
        member = next(member for member in members if member.name.endswith("degraded.tiff"))
    place = {
        "noise": member.offset_data + member.size - 9,
        "first header": 150,
        "header": member.offset + 150,
        "end": -1,
    }
    tar[place[where]] ^= 1
    path.write_bytes(tar)
    with pytest.raises(
        UserError, match=rf"^shard file://.*{plan.datasets[0].shards[2].key} .* published.*: run pipelines.*again$"
    ):
        take(plan, 7)


def patches_of(*values: float, seconds: float = 0.0) -> list[MakePatch]:
    """Undone patches that hold a value each, and take their time to be made."""

    def make(value: float) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(seconds)
        return np.full(1, value), np.full(1, value)

    return [partial(make, value) for value in values]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_prefetching_keeps_the_order_and_passes_errors_on(threads: int) -> None:
    def damaged() -> tuple[np.ndarray, np.ndarray]:
        raise UserError("damaged")

    def source() -> Iterator[list[MakePatch]]:
        yield from (patches_of(i, i + 0.5, seconds=0.02 / (1 + i)) for i in range(5))
        yield [*patches_of(5, seconds=0.02), damaged]
        yield patches_of(6)
        raise UserError("no more")

    loader = Prefetcher(source(), threads)
    assert [next(loader).clean.flatten().tolist() for _ in range(5)] == [[i, i + 0.5] for i in range(5)]
    with pytest.raises(UserError, match="damaged"):
        next(loader)
    assert next(loader).clean == 6
    with pytest.raises(UserError, match="no more"):
        next(loader)
    loader.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_batch(denoise_store: str, threads: int) -> None:
    plan = plan_of(denoise_store, phases=PROGRESSIVE)
    loader = Prefetcher(undone_batches(plan, rank=0, workers=1, step=1), threads)
    assert all(equal(next(loader), batch) for batch in take(plan, 7, step=1))
    loader.close()


def test_a_prefetcher_can_be_closed_while_it_is_ahead() -> None:
    loader = Prefetcher(patches_of(0, seconds=0.01) for _ in itertools.count())
    next(loader)
    loader.close()
    assert not any(thread.name.startswith(("prefetch", "loader")) for thread in threading.enumerate())
