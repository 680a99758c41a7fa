"""Between the driver and the workers: figures and news one way, the wish to stop the other."""

from dataclasses import dataclass

import ray


@dataclass(frozen=True)
class Picture:
    """One that a worker has put into the run's store."""

    key: str


@dataclass(frozen=True)
class Lost:
    """Workers were lost, for this reason, and others will go on from the last checkpoint."""

    why: str


News = dict[str, float] | str | Picture | Lost
"""A step's record, something to be told, or what the two classes say."""


@ray.remote(num_cpus=0)
class Board:
    """Where workers leave their records, and what else they have to say, until the driver collects them."""

    def __init__(self) -> None:
        self._news: list[tuple[str, News]] = []
        self._stopping = False

    def push(self, task: str, records: list[dict[str, float]]) -> bool:
        """Take records of a task's steps; whether the run is to stop at its next checkpoint, which is due at once."""
        self._news += [(task, record) for record in records]
        return self._stopping

    def say(self, task: str, what: str | Picture | Lost) -> None:
        """Take news that is no record."""
        self._news.append((task, what))

    def drain(self) -> list[tuple[str, News]]:
        """Everything since the last call."""
        news, self._news = self._news, []
        return news

    def stop(self) -> None:
        """From now on workers are told to stop."""
        self._stopping = True
