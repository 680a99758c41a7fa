"""Clocks that differ between machines, or are set back: no shard of an unfinished run is taken for an old one."""

import dataclasses
import os
import time
from pathlib import Path

import pytest

from pipelines import versions
from pipelines.manifest import Manifest, ShardEntry
from pipelines.storage import Store, clock
from tests.manifests import manifest_of
from tests.pipelines.faults import EVER, FaultProxy, ShiftClock

DAY = 24 * 3600.0


def manifest() -> Manifest:
    entry = ShardEntry("train-" + "a" * 32, "train", 1, 2, 4, "0" * 64, 60.0, 1800.0)
    return manifest_of("sr", 1, [entry])


def publish_with_an_orphan(store: Store) -> str:
    """A version, and a shard of a run that is not finished; the orphan's key."""
    published = manifest()
    orphan = dataclasses.replace(published.shards[0], name="train-" + "b" * 32)
    for shard in (*published.shards, orphan):
        store.put(published.key(shard), b"data")
        store.put(versions.pool_key("sr", shard.name, "json"), b"{}")
    versions.publish(store, published)
    return published.key(orphan)


@pytest.mark.parametrize("days", [-40, -2, 2, 40])
def test_a_store_whose_clock_is_wrong_loses_no_young_shard(days: int, proxy: FaultProxy, bucket: Store) -> None:
    orphan = publish_with_an_orphan(bucket)
    proxy.add("GET|HEAD|PUT", "", ShiftClock(days * DAY), times=EVER)
    assert (versions.prune(bucket, "sr", 1).young, bucket.head(orphan) is None) == (1, False)
    proxy.clear()
    proxy.add("HEAD", "/pool/", ShiftClock(-1.1 * DAY), times=EVER)
    assert versions.prune(bucket, "sr", 1).shards == 1
    assert list(bucket.list("sr/pool/")) == [versions.pool_key("sr", "train-" + "a" * 32, s) for s in ("json", "tar")]


def test_a_clock_that_went_back_loses_no_shard(file_store: Store) -> None:
    orphan = publish_with_an_orphan(file_store)
    path = Path(file_store.url.removeprefix("file://"), orphan)
    for future in (10.0, 2 * DAY, 4000 * DAY):  # written before the clock was set back
        os.utime(path, (time.time() + future,) * 2)
        assert versions.prune(file_store, "sr", 1).young == 1
    os.utime(path, (time.time() - 2 * DAY,) * 2)
    assert versions.prune(file_store, "sr", 1).young == 1, "its record is young"
    os.utime(path.with_suffix(".json"), (time.time() - 2 * DAY,) * 2)
    assert versions.prune(file_store, "sr", 1).shards == 1


def test_the_store_s_clock(file_store: Store, bucket: Store, proxy: FaultProxy) -> None:
    assert abs(clock(file_store) - time.time()) < 60
    proxy.add("HEAD", "/probe-", ShiftClock(-DAY), times=EVER)
    assert abs(clock(bucket) - time.time() + DAY) < 60
    assert [*file_store.list(""), *bucket.list("")] == []
