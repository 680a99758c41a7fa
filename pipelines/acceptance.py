"""Whether a new version may take the place of the live one: what a scheduled run checks before it publishes."""

import math
from collections.abc import Mapping

from kgt.errors import UserError
from pipelines.manifest import SPLITS, Manifest, ShardEntry
from pipelines.storage import Store
from pipelines.verify import trouble

SAMPLE = 3  # shards of each split that are read back


def check_counts(live: Manifest, pairs: Mapping[str, int], max_shrink: float, *, same: bool) -> None:
    """Compare the `pairs` planned for each split with those of the live version, before any of them is made.

    Versions that differ in their randomness only (`same`) have as many. With other sources or settings there may be
    fewer, but not by more than the share `max_shrink`: half a source that could not be listed must not become the next
    version unseen. Raises UserError.
    """
    for split, now in pairs.items():
        old = live.statistics[split]["pairs"]
        if same and now != old:
            raise UserError(f"{live.task}: the next version would have {now} {split} pairs, {live.version} has {old}")
        if now < (1 - max_shrink) * old:
            raise UserError(
                f"{live.task}: the next version would have {now} {split} pairs, {live.version} has {old}: not made; "
                f"if that is meant, give max_shrink={math.ceil(100 * (1 - now / old)) / 100:g}"
            )


def accept(store: Store, live: Manifest, new: Manifest) -> None:
    """Compare `new` with `live`, and read some of its new shards back. Raises UserError if it must not be published.

    Versions that differ in their randomness only are of the same size and input PSNR but for chance.
    """
    known = {shard.name for shard in live.shards}
    for split in SPLITS:
        if new.identity == live.identity:
            _compare(live, new, split)
        for shard in _some([shard for shard in new.split(split) if shard.name not in known]):
            if wrong := trouble(store, new.task, shard):
                raise UserError(f"{store.url}/{new.key(shard)} was just made and is not right ({wrong}): not published")


def _compare(live: Manifest, new: Manifest, split: str) -> None:
    old, now = live.statistics[split], new.statistics[split]
    error = math.hypot(old["input_psnr_deviation"], now["input_psnr_deviation"]) / math.sqrt(max(1, now["pairs"]))
    if abs(now["input_psnr"] - old["input_psnr"]) > 0.5 + 4 * error:
        raise UserError(
            f"{new.task} {new.version} has a mean input PSNR of {now['input_psnr']:.2f} dB in {split}, "
            f"{live.version} {old['input_psnr']:.2f} dB, which is no chance: not published"
        )
    if abs(now["bytes"] - old["bytes"]) > 0.5 * old["bytes"]:
        raise UserError(
            f"{new.task} {new.version} has {now['bytes']} bytes in {split}, {live.version} {old['bytes']}, "
            "for as many pairs: not published"
        )


def _some(shards: list[ShardEntry]) -> list[ShardEntry]:
    """A few, evenly spread."""
    return shards[:: max(1, math.ceil(len(shards) / SAMPLE))]
