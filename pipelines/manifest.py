"""The manifest: what one version of a task's data consists of. Whoever reads one takes nothing in it on trust."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from pipelines.typed import typed

FORMAT = 2
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

_SHARD = re.compile(r"(train|val)-[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardEntry:
    """One shard: its name in the pool, its side, the epoch of its randomness, pairs, bytes and SHA-256; its pairs'
    input PSNR (dB) and the squares of that, summed."""

    name: str
    split: str
    epoch: int
    samples: int
    bytes: int
    sha256: str
    psnr_sum: float
    psnr_squares: float


class SourceFacts(TypedDict):
    """The source images of a version: their count and fingerprint, the rejects by reason, the keys of both lists."""

    fingerprint: str
    images: int
    images_key: str
    rejects: dict[str, int]
    rejects_key: str


@dataclass(frozen=True)
class Manifest:
    """One published version of one task's data. `epoch` is its number: the randomness that no earlier version has.

    `identity` is common to versions that differ in their randomness only; `recipe` is a `plan.Recipe`, what the user
    set; `statistics` a summary for each split.
    """

    task: str
    version: str
    epoch: int
    identity: str
    recipe: dict[str, Any]
    sources: SourceFacts
    shards: tuple[ShardEntry, ...]
    statistics: dict[str, dict[str, float]]
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """The manifest's file. It holds no time, so that equal runs make equal manifests, and a checksum of the rest,
        so that an edit is noticed wherever the file is read."""
        facts = asdict(self)
        return (json.dumps(facts | {"checksum": checksum(facts)}, sort_keys=True, indent=1) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def split(self, name: str) -> tuple[ShardEntry, ...]:
        """The shards of `train` or `val`."""
        return tuple(shard for shard in self.shards if shard.split == name)

    def key(self, shard: ShardEntry) -> str:
        """Where a shard lies in the store."""
        return pool_key(self.task, shard.name)


def statistics_of(shards: Sequence[ShardEntry]) -> dict[str, float]:
    """The summary of a split: `shards`, `pairs`, `bytes`, mean `input_psnr` in dB and `input_psnr_deviation`."""
    pairs = sum(shard.samples for shard in shards)
    mean = math.fsum(shard.psnr_sum for shard in shards) / max(1, pairs)
    variance = math.fsum(shard.psnr_squares for shard in shards) / max(1, pairs) - mean * mean
    return {
        "shards": len(shards),
        "pairs": pairs,
        "bytes": sum(shard.bytes for shard in shards),
        "input_psnr": round(mean, 4),
        "input_psnr_deviation": round(math.sqrt(max(0.0, variance)), 4),
    }


def pool_key(task: str, shard: str, suffix: str = "tar") -> str:
    """The key of a shard (`tar`) or its record (`json`)."""
    return f"{task}/pool/{shard}.{suffix}"


def survey_prefix(task: str, version: str, digest: str) -> str:
    """Where the lists of a version's source images are. Two runs at once that differ in them have lists each."""
    return f"{task}/survey/{version}-{digest}/"


def version_name(number: int) -> str:
    """`v000001` for 1."""
    return f"v{number:06d}"


def checksum(facts: dict[str, Any]) -> str:
    """SHA-256 of a manifest's facts, without the checksum itself."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def entry_of(facts: Any) -> ShardEntry:
    """The entry that a manifest or a shard's record describes. Raises ValueError where it cannot be one."""
    entry = typed(ShardEntry, facts)
    named = (
        _SHARD.fullmatch(entry.name) and _SHA256.fullmatch(entry.sha256) and entry.name.startswith(entry.split + "-")
    )
    if not named or entry.samples < 1 or entry.epoch < 1 or entry.bytes < 1:
        raise ValueError(f"shard {entry.name[:60]!r} is not described as it should be")
    return entry
