"""One promotion of a model at a time, also from two machines: a lease in the store, held by conditional writes."""

import getpass
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from kgt.errors import UserError
from pipelines.storage import Absent, Conflict, Malformed, Matches, Missing, Stat, Store, read_json

LEASE = 600.0
"""Seconds for which a lock is good after its holder was last heard of."""

_LONGEST = 4096  # bytes that a lock may have: the store is others' too
_RENEWAL = 60.0  # seconds between two of a holder's signs of life


class Lock:
    """A model's lock in a store.

    It is good for LEASE seconds, and renewed while its holder lives: that of a process that was killed can be taken
    soon after. Every write says what it replaces, so of two that take the same lock over one wins, and a holder that
    stood still for too long learns of it by `renew`. Clocks only say when a lock may be taken over, not whose it is:
    where they differ by more than LEASE, a holder that lives can lose its lock, and learns of that too.
    """

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model, self._key = store, model, f"locks/{model}.json"
        self._holder = f"{getpass.getuser()} on {socket.gethostname()} (process {os.getpid()})"
        self._since, self._mark = _written(_now()), secrets.token_hex(8)
        self._writing = threading.Lock()

    def take(self) -> None:
        """Take it, where nobody holds it, or no more. Raises UserError, naming who has it and until when."""
        stat, record = self._found()
        if record is not None and _now() < datetime.fromisoformat(record["until"]):
            raise self._held(record)
        try:
            self._put(stat, self._record())
        except Conflict as error:
            raise self._held(self._found()[1]) from error

    def renew(self) -> None:
        """Hold it for another LEASE seconds; done right before what only its holder may do.

        Raises UserError where another has taken it over. What a process does that stands still for longer than LEASE
        between this and its next step, is not prevented by it.
        """
        self._replace(self._record())

    def release(self) -> None:
        """End it; where another has taken it over, nothing happens."""
        with suppress(UserError):  # in a store that is gone now it ends by itself
            self._replace({})

    def _replace(self, record: dict[str, str]) -> None:
        with self._writing:
            stat, found = self._found()
            if found is None or found["mark"] != self._mark:
                raise self._lost(found)
            try:
                self._put(stat, record)
            except Conflict as error:
                raise self._lost(self._found()[1]) from error

    def _record(self) -> dict[str, str]:
        until = _written(_now() + timedelta(seconds=LEASE))
        return {"holder": self._holder, "since": self._since, "until": until, "mark": self._mark}

    def _put(self, replaced: Stat | None, record: dict[str, str]) -> None:
        condition = Matches(replaced.etag) if replaced else Absent()
        self._store.put(self._key, json.dumps(record).encode(), condition=condition)

    def _found(self) -> tuple[Stat | None, dict[str, str] | None]:
        """The object, and after that its record: None where there is none, where it is empty, or damaged: nobody's."""
        stat = self._store.head(self._key)
        if stat is None or stat.size > _LONGEST:
            return stat, None
        with suppress(Missing, Malformed):
            record = read_json(self._store, self._key)
            if _is_record(record):
                return stat, record
        return stat, None

    def _held(self, record: dict[str, str] | None) -> UserError:
        if record is None:
            return UserError(f"{self._model} is being promoted by another, which has just begun or ended: try again")
        return UserError(
            f"{self._model} is being promoted by {record['holder']} since {record['since']}: wait for it; "
            f"its lock ({self._store.url}/{self._key}) ends at {record['until']} unless it is renewed"
        )

    def _lost(self, record: dict[str, str] | None) -> UserError:
        by = f"by {record['holder']} at {record['since']}" if record else "or removed by hand"
        return UserError(
            f"the lock of {self._model} was taken over {by}, as this process stood still for too long: decide again"
        )


@contextmanager
def held(store: Store, model: str) -> Iterator[Lock]:
    """Hold the model's lock. Raises UserError where another does, as `Lock.take` says it."""
    lock, ended = Lock(store, model), threading.Event()
    lock.take()

    def renew() -> None:
        while not ended.wait(_RENEWAL):
            with suppress(UserError):  # whoever acts on the lock renews it first, and is told
                lock.renew()

    renewing = threading.Thread(target=renew, name="lock", daemon=True)
    renewing.start()
    try:
        yield lock
    finally:
        ended.set()
        renewing.join()
        lock.release()


def _is_record(found: Any) -> bool:
    names = ("holder", "since", "until", "mark")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        return False
    try:
        return datetime.fromisoformat(found["until"]).tzinfo is not None
    except ValueError:
        return False


def _now() -> datetime:
    return datetime.now(UTC)


def _written(moment: datetime) -> str:
    return moment.isoformat(" ", "seconds")
