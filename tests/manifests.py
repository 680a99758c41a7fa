"""Manifests for tests: whole and right, but for what a test changes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipelines.manifest import SPLITS, Manifest, ShardEntry, statistics_of, survey_prefix, version_name
from pipelines.plan import Recipe


def manifest_of(task: str, number: int, shards: Sequence[ShardEntry], **recipe: Any) -> Manifest:
    """Version `number` of these shards. `recipe`: of its settings, those that count."""
    version = version_name(number)
    default = Recipe(task, {}, 0, 64, 1, None, 1.0, False, 0.05, 64.0, 1)
    lists = survey_prefix(task, version, "0" * 32)
    return Manifest(
        task=task,
        version=version,
        epoch=number,
        identity="same",
        recipe=dataclasses.asdict(dataclasses.replace(default, **recipe)),
        sources={
            "fingerprint": "0" * 32,
            "images": 3,
            "images_key": f"{lists}images.jsonl.gz",
            "rejects": {},
            "rejects_key": f"{lists}rejects.jsonl",
        },
        shards=tuple(shards),
        statistics={split: statistics_of([shard for shard in shards if shard.split == split]) for split in SPLITS},
    )
