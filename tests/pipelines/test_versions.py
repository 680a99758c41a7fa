"""Versions: one commit, one winner, nothing pruned that is needed, nothing believed that was edited."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kgt.errors import UserError
from pipelines import storage, versions
from pipelines.manifest import Manifest, ShardEntry, checksum
from pipelines.storage import Store
from pipelines.versions import current, latest, list_versions, load, pin, prune, publish, unpin
from tests.manifests import manifest_of


def manifest(number: int, shards: tuple[str, ...] = ("a",), **changes: object) -> Manifest:
    entries = tuple(ShardEntry(f"train-{name * 32}", "train", number, 2, 4, "0" * 64, 60.0, 1800.0) for name in shards)
    return dataclasses.replace(manifest_of("sr", number, entries), **changes)


def published(store: Store, *manifests: Manifest) -> None:
    for made in manifests:
        for shard in made.shards:
            store.put(made.key(shard), b"data")
            store.put(versions.pool_key("sr", shard.name, "json"), b"{}")
        publish(store, made)


def test_a_version_comes_back_as_it_was_published(store: Store) -> None:
    made = manifest(1, ("a", "b"))
    published(store, made)
    assert current(store, "sr") == load(store, "sr", "v000001") == latest(store, "sr") == made
    assert current(store, "sr").digest == made.digest
    assert made.split("val") == ()


def test_an_equal_version_does_no_harm_and_a_different_one_is_told(store: Store) -> None:
    published(store, manifest(1))
    publish(store, manifest(1))
    with pytest.raises(UserError, match="another run published v000001 of sr meanwhile"):
        publish(store, manifest(1, identity="other"))
    assert current(store, "sr") == manifest(1)


def test_current_never_goes_back(store: Store) -> None:
    published(store, manifest(1), manifest(2))
    publish(store, manifest(1))
    assert current(store, "sr").version == "v000002"


def test_a_run_that_ended_before_current_was_moved_is_finished(store: Store) -> None:
    published(store, manifest(1))
    store.put("sr/versions/v000002.json", manifest(2).to_bytes())
    assert current(store, "sr").version == "v000001"
    assert latest(store, "sr").version == "v000002"
    assert current(store, "sr").version == "v000002"


def test_a_shard_that_is_not_there_is_not_published(store: Store) -> None:
    with pytest.raises(UserError, match="was removed"):
        publish(store, manifest(1))
    assert list_versions(store, "sr") == []


def test_without_a_version_the_command_that_makes_one_is_named(store: Store) -> None:
    with pytest.raises(UserError, match=rf"synthesize.py task=sr source=… store={store.url}"):
        current(store, "sr")
    assert latest(store, "sr") is None
    with pytest.raises(UserError, match="there is none"):
        load(store, "sr", "v000001")
    published(store, manifest(1))
    with pytest.raises(UserError, match="did you mean 'v000001'"):
        load(store, "sr", "v000002")
    with pytest.raises(UserError, match="not a version's name"):
        load(store, "sr", "../../x")


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b" " * 2000, b"\xff", b"[1]"], ids=["deep", "large", "binary", "list"]
)
@pytest.mark.parametrize("key", ["sr/versions/v000001.json", "sr/CURRENT"])
def test_hostile_json_is_refused_in_a_line(
    file_store: Store, key: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(file_store, manifest(1))
    file_store.put(key, data)
    monkeypatch.setattr(storage, "MAX_JSON_BYTES", 1000 if data.isspace() else storage.MAX_JSON_BYTES)
    with pytest.raises(UserError, match="is damaged") as raised:
        current(file_store, "sr")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"task": "jpeg"},
        {"version": "v000009"},
        {"shards": [{"name": "../../etc/passwd"}]},
        {"shards": 3},
        {"unknown": 1},
        {"identity": "other"},
        {"statistics": {}},
        {"checksum": None},
    ],
)
def test_an_edited_manifest_is_noticed(file_store: Store, change: dict) -> None:
    published(file_store, manifest(1))
    edited = json.loads(manifest(1).to_bytes()) | change
    edited = {name: value for name, value in edited.items() if value is not None}
    file_store.put("sr/versions/v000001.json", json.dumps(edited).encode())
    with pytest.raises(UserError, match=r"has format 1, this code|is damaged: it was edited"):
        load(file_store, "sr", "v000001")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "train-" + "/../x" * 6},
        {"name": "val-" + "a" * 32},
        {"samples": -1},
        {"samples": "2"},
        {"epoch": 0},
        {"bytes": 1.5},
        {"sha256": "x"},
    ],
)
def test_an_edited_shard_is_noticed(file_store: Store, change: dict) -> None:
    published(file_store, manifest(1))
    edited = json.loads(manifest(1).to_bytes())
    edited["shards"][0] |= change
    put_signed(file_store, edited)
    with pytest.raises(UserError, match="damaged"):
        load(file_store, "sr", "v000001")


def put_signed(store: Store, edited: dict[str, Any]) -> None:
    """Put a manifest with the checksum that belongs to it, as somebody does who knows how."""
    facts = {name: value for name, value in edited.items() if name != "checksum"}
    try:
        signed = facts | {"checksum": checksum(facts)}
    except ValueError:  # numbers that are none
        signed = facts | {"checksum": "0" * 64}
    store.put("sr/versions/v000001.json", json.dumps(signed).encode())


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": 3},
        {"recipe": {"seed": 0}},
        {"recipe.crop": "64"},
        {"recipe.crop": 10**400},
        {"recipe.paired": 0},
        {"recipe.task": "jpeg"},
        {"recipe.val_fraction": math.nan},
        {"recipe.settings": []},
        {"recipe.settings": {"scale": 1000}},
        {"recipe.settings": {"scale": 10**400}},
        {"recipe.settings": {"scale": nested(200)}},
        {"recipe.settings": {"sigma": 3}},
        {"sources": None},
        {"sources.images": "many"},
        {"sources.rejects": {"small": "3"}},
        {"sources.images_key": "../../etc/passwd"},
        {"sources.images_key": "sr/survey/v000002-" + "0" * 32 + "/images.jsonl.gz"},
        {"sources.rejects_key": "jpeg/pool/x.tar"},
        {"statistics": {"train": {"pairs": 2}, "val": {"pairs": 0}}},
        {"statistics.train": {"pairs": "2"}},
        {"shards.0.samples": 10**300},
        {"shards.0.psnr_sum": 1e308},
        {"shards.0.psnr_squares": "1"},
        {"recipe.settings": {"sc\nale" * 1000: 2}},
        {"format": "2"},
        {"identity": 3},
        {"epoch": 2},
        {"epoch": "1"},
        {"epoch": True},
    ],
    ids=lambda change: "".join(change),
)
def test_an_edited_fact_is_refused_in_a_line_that_names_the_manifest(file_store: Store, change: dict) -> None:
    published(file_store, manifest(1))
    edited = json.loads(manifest(1).to_bytes())
    ((place, value),) = change.items()
    *folders, name = place.split(".")
    spot = edited
    for key in folders:
        spot = spot[int(key) if key.isdigit() else key]
    spot[name] = value
    put_signed(file_store, edited)
    with pytest.raises(UserError, match=r"sr/versions/v000001\.json is damaged: ") as raised:
        load(file_store, "sr", "v000001")
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


def test_a_plausible_edit_is_noticed_too(file_store: Store) -> None:
    published(file_store, manifest(1))
    file_store.put("sr/versions/v000001.json", manifest(1, identity="forged").to_bytes())
    with pytest.raises(UserError, match="not the manifest that was published"):
        current(file_store, "sr")
    file_store.put("sr/CURRENT", b"v000001")
    with pytest.raises(UserError, match="CURRENT is damaged"):
        current(file_store, "sr")


def age(store: Store) -> None:
    """Let two days go by for the files of a store."""
    for path in Path(store.url.removeprefix("file://")).rglob("*"):
        stat = path.stat()
        os.utime(path, (stat.st_atime, stat.st_mtime - 2 * 24 * 3600))


def pool(store: Store) -> set[str]:
    return {key[len("sr/pool/train-")] for key in store.list("sr/pool/")}


def test_prune_keeps_the_newest_the_pinned_and_what_they_need(file_store: Store) -> None:
    published(
        file_store, manifest(1, ("a", "b")), manifest(2, ("b", "c")), manifest(3, ("d",)), manifest(4, ("a", "e"))
    )
    pin(file_store, "sr", "v000002", "run-7")
    assert prune(file_store, "sr", 1).versions == ("v000001", "v000003")
    assert pool(file_store) == set("abcde"), "young shards may be an unfinished run's"
    age(file_store)
    assert prune(file_store, "sr", 1).shards == 1
    assert pool(file_store) == set("abce")
    unpin(file_store, "sr", "v000002", "run-7")
    age(file_store)
    done = prune(file_store, "sr", 1)
    assert (done.versions, done.shards) == (("v000002",), 2)
    assert pool(file_store) == set("ae")
    assert current(file_store, "sr").version == "v000004"


@pytest.fixture
def published_late(file_store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Called with a name and the end of a key: shards `b` and `c`, two days old, lie in the pool, and a version that
    has that one of them is published once an object whose key ends so is deleted."""

    def later(shard: str, deleted: str) -> None:
        published(file_store, manifest(1))
        for name in "bc":
            file_store.put(versions.pool_key("sr", f"train-{name * 32}"), b"data")
        age(file_store)
        delete = type(file_store).delete

        def deleting(store: Store, key: str) -> None:
            delete(store, key)
            if key.endswith(deleted):
                publish(store, manifest(2, (shard,)))

        monkeypatch.setattr(type(file_store), "delete", deleting)

    return later


def test_prune_keeps_what_is_published_while_it_sweeps(file_store: Store, published_late: Callable) -> None:
    """A run that goes on with the shards of one that ended a day ago."""
    published_late("c", "b.tar")
    assert prune(file_store, "sr", 2).shards == 1
    assert pool(file_store) == set("ac")


def test_prune_tells_whose_shard_it_deleted_while_the_version_was_published(
    file_store: Store, published_late: Callable
) -> None:
    """Then the run found it there after the commit."""
    published_late("b", "b.json")
    with pytest.raises(UserError, match=r"b\.tar was deleted while a version was published that has it: give the"):
        prune(file_store, "sr", 2)


def test_what_prune_deleted_meanwhile_is_told_and_not_made_current(
    file_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(file_store, manifest(1))
    key = manifest(2, ("b",)).key(manifest(2, ("b",)).shards[0])
    file_store.put(key, b"data")
    put = type(file_store).put

    def putting(store: Store, name: str, data: bytes, **how: object) -> str:
        if "/versions/" in name:
            store.delete(key)
        return put(store, name, data, **how)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(type(file_store), "put", putting)
        with pytest.raises(UserError, match="was removed while the run was going on: run it again"):
            publish(file_store, manifest(2, ("b",)))
    assert latest(file_store, "sr").version == "v000002"
    assert current(file_store, "sr").version == "v000001"
    published(file_store, manifest(2, ("b",)))  # as a run that mends it does
    assert current(file_store, "sr").version == "v000002"


def test_prune_on_s3(store: Store) -> None:
    published(store, manifest(1), manifest(2), manifest(3))
    assert prune(store, "sr", 2).versions == ("v000001",)
    assert list_versions(store, "sr") == ["v000002", "v000003"]


@pytest.mark.parametrize("lost", ["v000001", "v000002"])
def test_prune_stops_where_a_version_to_be_kept_is_lost(file_store: Store, lost: str) -> None:
    published(file_store, manifest(1), manifest(2))
    pin(file_store, "sr", "v000001", "run-7")
    file_store.delete(f"sr/versions/{lost}.json")
    before = list(file_store.list(""))
    with pytest.raises(UserError, match=f"no manifest of {lost}"):
        prune(file_store, "sr", 1)
    assert list(file_store.list("")) == before


def test_pins(store: Store) -> None:
    published(store, manifest(1))
    pin(store, "sr", "v000001", "model-3")
    assert versions.pins(store, "sr") == {"v000001": ["model-3"]}
    with pytest.raises(UserError, match="no name for a pin"):
        pin(store, "sr", "v000001", "../x")
    with pytest.raises(UserError, match="has no version"):
        pin(store, "sr", "v000002", "x")
    with pytest.raises(UserError, match="no pin 'other'"):
        unpin(store, "sr", "v000001", "other")
