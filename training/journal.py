"""The figures of every step, in the run's own store: what MLflow has not heard of when a driver dies is told later.

    <task>/metrics/00000500.jsonl   a line a step, of those since the checkpoint before step 500

Written before that step's checkpoint is committed: no committed step is without its figures.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from pipelines.patience import patiently
from pipelines.storage import Store


def write(store: Store, task: str, records: Sequence[Mapping[str, float]]) -> None:
    """Keep the records of consecutive steps, each with its `step`."""
    if records:
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        patiently(store.put, f"{_folder(task)}{records[-1]['step']:08d}.jsonl", lines.encode())


def read(store: Store, task: str, after: int) -> Iterator[dict[str, float]]:
    """The records of the steps above `after`, ascending, every step once."""
    for key in sorted(store.list(_folder(task))):
        if int(key.removeprefix(_folder(task)).partition(".")[0]) > after:
            for record in map(json.loads, store.get(key).splitlines()):
                if record["step"] > after:
                    after = record["step"]
                    yield record


def _folder(task: str) -> str:
    return f"{task}/metrics/"
