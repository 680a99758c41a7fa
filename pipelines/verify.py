"""Whether a shard in the store is what was published: every byte and every image."""

from typing import Any

from pipelines.manifest import ShardEntry, pool_key
from pipelines.shards import ShardError, decode_pair, read_published
from pipelines.storage import Missing, Store


def trouble(store: Store, task: str, shard: ShardEntry) -> str:
    """What is wrong with a shard, in a few words; empty if nothing is.

    Reads all of it: SHA-256, member names, each pair's record and images.
    """
    try:
        with store.open(pool_key(task, shard.name)) as file:
            pairs = sum(1 for sample in read_published(file, shard.sha256) if decode_pair(sample))
    except Missing:
        return "missing"
    except ShardError as error:
        return str(error)
    return "" if pairs == shard.samples else f"{pairs} pairs instead of {shard.samples}"


def verify_row(row: dict[str, Any]) -> dict[str, Any]:
    """`row`: a Store, a task and a ShardEntry, as a Ray task has them. Its key and what is wrong with it."""
    key = pool_key(row["task"], row["shard"].name)
    return {"key": key, "trouble": trouble(row["store"], row["task"], row["shard"])}
