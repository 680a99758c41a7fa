"""Checkpoints in the run's own store prefix: every rank writes its part, and a marker, written last, commits them.

    <task>/checkpoints/00000500/0/<digest>/mp_rank_00_model_states.pt   a part (DeepSpeed's file) of rank 0
    <task>/checkpoints/00000500/COMMITTED.json   the step, the data's state, every file's size and SHA-256

A checkpoint without its marker does not exist. One with it is whole: each file is checked on loading, and none is ever
overwritten by another, as its name holds its digest. What was on its way from a killed worker, or from one whose driver
has lost the run to another (see lock.py), spoils nothing that is committed.

DeepSpeed unpickles its files. It is given those alone that a marker in the run's own prefix names, below that
checkpoint's own folder, with the SHA-256 they were committed with: who may write there may run code in the run.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.patience import patiently
from pipelines.storage import Malformed, Missing, Store, read_json

MARKER = "COMMITTED.json"

_DIGITS = 16
"""Of a part's SHA-256 that its name holds."""

_NAME = re.compile(rf"[0-9]+/[0-9a-f]{{{_DIGITS}}}(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+", re.ASCII)
"""Of a part below the checkpoint's folder: rank, digest, then a path without hidden or parent folders."""

Gather = Callable[[Any], list[Any] | None]
"""Collects one object of every rank, in order, on rank 0; None elsewhere."""


class CheckpointError(RuntimeError):
    """A committed checkpoint is not what was committed."""


@dataclass(frozen=True)
class Part:
    """One file of a checkpoint."""

    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """The marker: steps done, what else the run needs to go on (plain JSON), the files."""

    step: int
    state: dict[str, Any]
    parts: tuple[Part, ...]


def save(
    store: Store, prefix: str, step: int, folder: Path, state: dict[str, Any], *, rank: int, gather: Gather
) -> None:
    """Put this rank's files (all below `folder`) into the store; rank 0 commits when every rank has.

    Every rank calls it. `state` is rank 0's.
    """
    base = _folder(prefix, step)
    mine = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        key = f"{base}/{rank}/{digest[:_DIGITS]}/{path.relative_to(folder).as_posix()}"
        part = Part(key, path.stat().st_size, digest)
        patiently(store.put, part.key, path, sha256=digest)
        mine.append(part)
    parts = gather(mine)
    if parts is not None:
        marker = Checkpoint(step, state, tuple(part for rank_parts in parts for part in rank_parts))
        patiently(store.put, f"{base}/{MARKER}", json.dumps(asdict(marker), sort_keys=True).encode())


def latest(store: Store, prefix: str) -> Checkpoint | None:
    """The committed checkpoint of the highest step, if there is one."""
    steps = committed(store, prefix)
    return read(store, prefix, steps[-1]) if steps else None


def read(store: Store, prefix: str, step: int) -> Checkpoint:
    """The marker of that step. Raises CheckpointError if it is not one."""
    key = f"{_folder(prefix, step)}/{MARKER}"
    try:
        found = read_json(store, key)
        checkpoint = Checkpoint(found["step"], found["state"], tuple(Part(**part) for part in found["parts"]))
        strange = [part.key for part in checkpoint.parts if not _is_part(part.key, _folder(prefix, step))]
    except (Missing, Malformed, KeyError, TypeError, AttributeError) as error:
        what = f"is no marker of a checkpoint ({error})"
        raise CheckpointError(_spoilt(store, key, what)) from error
    if strange or checkpoint.step != step:
        what = f"names {strange[0]!r}" if strange else f"says step {checkpoint.step}"
        raise CheckpointError(_spoilt(store, key, f"{what}, which is not of this checkpoint"))
    return checkpoint


def committed(store: Store, prefix: str) -> list[int]:
    """The steps of the committed checkpoints, ascending."""
    keys = store.list(f"{prefix}/checkpoints/")
    return sorted(int(key.split("/")[-2]) for key in keys if key.endswith(f"/{MARKER}"))


def fetch(store: Store, checkpoint: Checkpoint, folder: Path) -> None:
    """Copy all files, the ranks' together, into `folder`. Raises CheckpointError where one was altered."""
    for part in checkpoint.parts:
        path = folder / part.key.split("/checkpoints/")[1].split("/", 3)[3]
        path.parent.mkdir(parents=True, exist_ok=True)
        # A second look, as the advice is to delete it.
        if not any(patiently(_copied, store, part, path) for _ in range(2)):
            raise CheckpointError(_spoilt(store, part.key, "is not what was committed"))


def prune(store: Store, prefix: str, keep: int, besides: Collection[int] = ()) -> None:
    """Remove all but the newest `keep` committed checkpoints, and whatever older ones were never committed.

    besides: steps whose checkpoints stay, too.
    """
    steps = committed(store, prefix)
    for step in steps[:-keep]:
        if step not in besides:
            store.delete(f"{_folder(prefix, step)}/{MARKER}")  # first: without it the rest does not exist
    oldest = steps[-keep:][0] if steps else 0
    for key in list(store.list(f"{prefix}/checkpoints/")):
        step = int(key.removeprefix(f"{prefix}/checkpoints/").split("/")[0])
        if step < oldest and step not in besides:
            store.delete(key)


def _copied(store: Store, part: Part, path: Path) -> bool:
    """Copy a file of a checkpoint; whether that is what was committed. Raises CheckpointError where it is gone."""
    try:
        with store.open(part.key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except Missing as error:
        raise CheckpointError(_spoilt(store, part.key, "is gone")) from error
    with path.open("rb") as file:
        return path.stat().st_size == part.bytes and hashlib.file_digest(file, "sha256").hexdigest() == part.sha256


def _folder(prefix: str, step: int) -> str:
    return f"{prefix}/checkpoints/{step:08d}"


def _is_part(key: str, folder: str) -> bool:
    return key.startswith(f"{folder}/") and _NAME.fullmatch(key, len(folder) + 1) is not None


def _spoilt(store: Store, key: str, how: str) -> str:
    folder = "/".join(key.split("/")[: key.split("/").index("checkpoints") + 2])
    return f"{store.url}/{key} {how}: delete {store.url}/{folder} to go on from the checkpoint before it"
