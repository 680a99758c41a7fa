"""Versions: a manifest names the shards of one state of a task's data; publishing it is the commit.

<task>/pool/<shard>.tar        the shards, and beside each its record <shard>.json, written when the shard is there
<task>/versions/v000001.json   manifests, created once and never changed
<task>/survey/v000001-<digest>/images.jsonl.gz, rejects.jsonl   the source images, used or not; the manifest names both
<task>/CURRENT                 which version is the newest, moved forward by compare-and-set
<task>/pins/v000001/<name>.json   who needs an older version kept
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kgt.errors import UserError
from kgt.tasks import nearest
from pipelines.degradations import settings_of
from pipelines.manifest import (
    FORMAT,
    SPLITS,
    Manifest,
    ShardEntry,
    SourceFacts,
    checksum,
    entry_of,
    pool_key,
    statistics_of,
    survey_prefix,
    version_name,
)
from pipelines.plan import Recipe
from pipelines.storage import Absent, Conflict, Malformed, Matches, Missing, Store, clock, read_bytes, read_json
from pipelines.typed import typed

ORPHAN_SECONDS = 24 * 3600.0  # an unreferenced shard may belong to a run that is not finished

_VERSION = re.compile(r"v\d{6}", re.ASCII)
_PIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def list_versions(store: Store, task: str) -> list[str]:
    """The versions that are published, oldest first."""
    names = (key.rpartition("/")[2].removesuffix(".json") for key in store.list(f"{task}/versions/"))
    return sorted(name for name in names if _VERSION.fullmatch(name))


def load(store: Store, task: str, version: str) -> Manifest:
    """The manifest of that version. Raises UserError if there is none, or it is not one."""
    if not _VERSION.fullmatch(version):
        raise UserError(f"'{version}' is not a version's name: it looks like {version_name(1)}")
    try:
        return _decode(store, task, version)
    except Missing as error:
        raise UserError(f"{store.url} has no version {version} of {task}: {_known(store, task, version)}") from error


def current(store: Store, task: str) -> Manifest:
    """The newest version's manifest. Raises UserError with the command that makes one if there is none."""
    pointer = _pointer(store, task)
    if pointer is None and list_versions(store, task):
        raise UserError(
            f"{store.url}/{task}/CURRENT is missing, though there are versions: a run ended just before it wrote it; "
            "give the command that made the newest one again"
        )
    if pointer is None:
        raise UserError(
            f"no shards for {task} in {store.url}: make them with "
            f"`python pipelines/synthesize.py task={task} source=… store={store.url}`"
        )
    manifest = load(store, task, pointer["version"])
    if manifest.digest != pointer["manifest_sha256"]:
        raise UserError(f"{store.url}/{_manifest_key(task, manifest.version)} is not the manifest that was published")
    return manifest


def current_name(store: Store, task: str) -> str | None:
    """The version that is used where none is named, if any."""
    pointer = _pointer(store, task)
    return pointer and pointer["version"]


def latest(store: Store, task: str) -> Manifest | None:
    """The newest published version's manifest, if any.

    A run that ended between the commit and CURRENT is finished, unless the version lacks a shard.
    """
    versions = list_versions(store, task)
    if not versions:
        return None
    manifest = load(store, task, versions[-1])
    if current_name(store, task) == manifest.version or not missing(store, manifest):
        _advance(store, manifest)
    return manifest


def missing(store: Store, manifest: Manifest) -> list[ShardEntry]:
    """The version's shards that are not in the pool, or not of their size."""

    def whole(shard: ShardEntry) -> bool:
        stat = store.head(manifest.key(shard))
        return stat is not None and stat.size == shard.bytes

    with ThreadPoolExecutor(16) as pool:  # a request each
        there = list(pool.map(whole, manifest.shards))
    return [shard for shard, found in zip(manifest.shards, there, strict=True) if not found]


def publish(store: Store, manifest: Manifest) -> None:
    """Commit a version whose shards are all there, and make it current.

    An equal run that was first is no harm. Raises UserError if a different one was, or if a shard is missing; one that
    was pruned during the commit leaves a version that is not current, until a run that mends it publishes it again.
    """
    _see_whole(store, manifest)
    key, data = _manifest_key(manifest.task, manifest.version), manifest.to_bytes()
    try:
        store.put(key, data, condition=Absent())
    except Conflict:
        with store.open(key) as file:
            same = file.read(len(data) + 1) == data
        if not same:
            raise UserError(
                f"another run published {manifest.version} of {manifest.task} meanwhile, with other settings: "
                "run again to make the next version"
            ) from None
    _see_whole(store, manifest)  # `prune` may have looked before the commit
    _advance(store, manifest)


def _see_whole(store: Store, manifest: Manifest) -> None:
    for shard in missing(store, manifest):
        raise UserError(f"{store.url}/{manifest.key(shard)} was removed while the run was going on: run it again")


def pin(store: Store, task: str, version: str, name: str) -> None:
    """Keep a version from being pruned, under a name (a run's, a model's). Raises UserError if it is not there."""
    if not _PIN.fullmatch(name):
        raise UserError(f"'{name}' is no name for a pin: letters, digits, dots, dashes and underscores are allowed")
    load(store, task, version)
    key = f"{task}/pins/{version}/{name}.json"
    store.put(key, json.dumps({"version": version, "name": name}, sort_keys=True).encode())
    if store.head(_manifest_key(task, version)) is None:
        store.delete(key)
        raise UserError(f"{version} of {task} was pruned just now: use the current version")


def unpin(store: Store, task: str, version: str, name: str) -> None:
    """Give up a pin. Raises UserError if there is none of that name."""
    if name not in pins(store, task).get(version, ()):
        raise UserError(f"{version} of {task} has no pin '{name}'")
    store.delete(f"{task}/pins/{version}/{name}.json")


def pins(store: Store, task: str) -> dict[str, list[str]]:
    """The pins' names by version."""
    found: dict[str, list[str]] = {}
    for key in store.list(f"{task}/pins/"):
        version, _, name = key.removeprefix(f"{task}/pins/").partition("/")
        found.setdefault(version, []).append(name.removesuffix(".json"))
    return found


@dataclass(frozen=True)
class Pruned:
    """What `prune` did: versions removed, shards deleted, and `young` ones that nothing refers to but that stay."""

    versions: tuple[str, ...]
    shards: int
    young: int

    def __str__(self) -> str:
        young = f"; {self.young} unused ones are younger than a day and stay for now" if self.young else ""
        return f"pruned {', '.join(self.versions) or 'no version'}, {self.shards} shards{young}"


def prune(store: Store, task: str, keep: int) -> Pruned:
    """Remove all versions but the newest `keep`, the current one and pinned ones, then shards that none refers to.

    Mark and sweep. An unreferenced shard younger than a day, by the store's own clock, is left alone: it may be an
    unfinished run's. So is one that seems to come from the future. Raises UserError, before anything is removed, if a
    version to be kept has no manifest, or a damaged one: its shards would not be known. And afterwards, if a version
    was published meanwhile whose shard was deleted.
    """
    if keep < 1:
        raise UserError(f"keep={keep}: at least one version is kept")
    versions = list_versions(store, task)
    pointer = _pointer(store, task)
    kept = {*versions[-keep:], *pins(store, task), *([pointer["version"]] if pointer else ())}
    if lost := sorted(kept - {*versions}):
        raise UserError(
            f"{store.url} has no manifest of {', '.join(lost)} of {task}, which is current or pinned: "
            "nothing is pruned; put it back, or unpin it"
        )
    for version in sorted(kept):
        load(store, task, version)
    if pointer:
        current(store, task)
    removed = [version for version in versions if version not in kept and _remove(store, task, version)]
    swept, young = _sweep(store, task)
    return Pruned(tuple(removed), swept, young)


def _remove(store: Store, task: str, version: str) -> bool:
    key = _manifest_key(task, version)
    try:
        data = read_bytes(store, key)
    except Malformed as error:
        raise UserError(f"{store.url}/{key} is damaged: {error}") from error
    store.delete(key)
    if version in pins(store, task):  # pinned since we looked: `pin` writes first and then looks for the manifest
        store.put(key, data, condition=Absent())
        return False
    for key in store.list(f"{task}/survey/"):
        if key.startswith(f"{task}/survey/{version}-"):
            store.delete(key)
    return True


def _sweep(store: Store, task: str) -> tuple[int, int]:
    """Delete the shards that no version has, but for young ones; how many of both. Raises UserError."""
    versions: set[str] = set()
    used: set[str] = set()

    def look() -> None:
        for version in {*list_versions(store, task)} - versions:
            used.update(shard.name for shard in load(store, task, version).shards)
            versions.add(version)

    names = sorted({key.rpartition("/")[2].partition(".")[0] for key in store.list(f"{task}/pool/")})
    now, swept, young = clock(store), set(), 0
    look()
    for name in names:
        if name in used:
            continue
        stats = [store.head(pool_key(task, name, suffix)) for suffix in ("tar", "json")]
        if any(stat is not None and now - stat.modified < ORPHAN_SECONDS for stat in stats):
            young += 1
            continue
        look()  # again: what an earlier run left may be in a version that was published since
        if name not in used:
            store.delete(pool_key(task, name, "json"))  # first the record: a shard without one is made again
            store.delete(pool_key(task, name))
            swept.add(name)
    look()  # as `publish` does after its commit: one of both sees what the other did
    if lost := [name for name in sorted(used & swept) if store.head(pool_key(task, name)) is None]:
        raise UserError(
            f"{store.url}/{pool_key(task, lost[0])} was deleted while a version was published that has it: "
            "give the command that made the version again"
        )
    return len(swept), young


def _manifest_key(task: str, version: str) -> str:
    return f"{task}/versions/{version}.json"


def _known(store: Store, task: str, version: str) -> str:
    versions = list_versions(store, task)
    return nearest(version, versions) if versions else "there is none"


def _pointer(store: Store, task: str) -> dict[str, str] | None:
    try:
        pointer = read_json(store, f"{task}/CURRENT")
        return {name: str(pointer[name]) for name in ("version", "manifest_sha256")}
    except Missing:
        return None
    except (Malformed, KeyError, TypeError) as error:
        raise UserError(f"{store.url}/{task}/CURRENT is damaged: delete it, and run synthesize.py again") from error


def _advance(store: Store, manifest: Manifest) -> None:
    """Make the version current unless a newer one is. Raises UserError if CURRENT knows it with another manifest."""
    key = f"{manifest.task}/CURRENT"
    pointer = {"version": manifest.version, "manifest_sha256": manifest.digest}
    data = (json.dumps(pointer, sort_keys=True) + "\n").encode()
    while True:
        stat = store.head(key)
        now = _pointer(store, manifest.task) if stat else None
        if now and now["version"] == manifest.version and now["manifest_sha256"] != manifest.digest:
            raise UserError(
                f"{store.url}/{_manifest_key(manifest.task, manifest.version)} is not the manifest that was published"
            )
        if now and now["version"] >= manifest.version:
            return
        try:
            store.put(key, data, condition=Matches(stat.etag) if stat else Absent())
            return
        except Conflict:
            continue


def _decode(store: Store, task: str, version: str) -> Manifest:
    """The manifest, every name and number checked: what is read from a store may have been edited."""
    where = f"{store.url}/{_manifest_key(task, version)}"
    try:
        found = read_json(store, _manifest_key(task, version))
    except Malformed as error:
        raise UserError(f"{where} is damaged: {error}") from error
    written = found.get("format") if isinstance(found, dict) else None
    if type(written) is int and written != FORMAT:
        raise UserError(
            f"{store.url}: {version} of {task} has format {written}, this code reads {FORMAT}: "
            "make the shards anew in another store"
        )
    try:
        return _manifest_of(found, task, version)
    except (
        *(ValueError, KeyError, TypeError, AttributeError),
        *(ArithmeticError, RecursionError),  # numbers and nesting beyond all bounds
    ) as error:
        line = " ".join(str(error).split())[:300]  # it may quote what is in the manifest
        raise UserError(f"{where} is damaged: {line}") from error


def _manifest_of(found: Any, task: str, version: str) -> Manifest:
    """Raises ValueError, or what else an edited one leads to."""
    if found.pop("checksum", None) != checksum(found):
        raise ValueError("it was edited")
    manifest = Manifest(**found | {"shards": tuple(entry_of(shard) for shard in found["shards"])})
    if [type(fact) for fact in (manifest.format, manifest.epoch, manifest.identity)] != [int, int, str]:
        raise ValueError("its format, epoch or identity is none")
    if (manifest.task, manifest.version, version_name(manifest.epoch)) != (task, version, version):
        raise ValueError("it is another version's")
    recipe = typed(Recipe, manifest.recipe)
    if recipe.task != task:
        raise ValueError("its recipe is another task's")
    settings_of(task, recipe.settings)
    sources = typed(SourceFacts, manifest.sources)
    folder = re.escape(survey_prefix(task, version, "")[:-1])
    for key, name in ((sources["images_key"], r"images\.jsonl\.gz"), (sources["rejects_key"], r"rejects\.jsonl")):
        if not re.fullmatch(f"{folder}[0-9a-f]{{32}}/{name}", key):
            raise ValueError(f"{key[:100]!r} is no list of this version's images")
    if manifest.statistics != {split: statistics_of(manifest.split(split)) for split in SPLITS}:
        raise ValueError("its statistics are not those of its shards")
    return manifest
