"""One promotion of a model at a time, and one driver of a run, also on two machines: a lease in the store, held by
conditional writes."""

import getpass
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kgt.errors import UserError
from pipelines.storage import Absent, Conflict, Malformed, Matches, Missing, Stat, Store, Unavailable, read_json
from training import processes

PROMOTION_LEASE = 600.0
"""Seconds for which a promotion's lock is good after its holder was last heard of."""

RUN_LEASE = 90.0
"""The same of a run's, whose end a driver on another machine waits for: short, and yet longer than a request to a store
may hang (60 s) before it is made again."""

_RENEWALS = 6  # a holder's signs of life in a lease: five in a row may fail
_LOOK = 1.0  # seconds between two looks at another's lock
_TRIES = 5
_FAREWELL = 10.0  # seconds for which a store that does not answer may delay the holder's end
_LONGEST = 4096  # bytes that a lock may have: the store is others' too

logger = logging.getLogger("training")


class TakenOver(UserError):
    """Another has taken the lock over."""


@dataclass(frozen=True)
class Terms:
    """What a lock is of (`kgt-sr`) and how its holder is named (`is being promoted by`); what to do for whom it is
    refused, and for whom has lost it; its lease in seconds."""

    subject: str
    held_by: str
    refused: str
    lost: str
    lease: float


class Lock:
    """A lock in a store. `lost`: the error of its loss, once `held` has noticed.

    It is good for a lease, and renewed while its holder lives: that of a process that was killed can be taken soon
    after, and at once where that process is seen to be no more. Every write says what it replaces, so of two that take
    the same lock over one wins, and a holder that stood still for too long learns of it by `renew`; where nobody took
    it over meanwhile, it is still the holder's. Clocks only say when a lock may be taken over, not whose it is: where
    they differ by more than a lease, a holder that lives can lose its lock, and learns of that too.
    """

    def __init__(self, store: Store, key: str, terms: Terms) -> None:
        self.terms = terms
        self.lost: TakenOver | None = None
        self._store, self._key = store, key
        self._holder = f"{_user()} on {socket.gethostname()} (process {os.getpid()})"
        self._process = processes.identity()
        self._since, self._mark = _written(_now()), secrets.token_hex(8)
        self._silent: dict[str, str] | None = None  # another's record that was seen not to be renewed for a lease
        self._looked, self._before = False, None  # as `look` found it
        self._writing = threading.Lock()

    def look(self) -> None:
        """Note its state, before what it guards is read: where another has held it since, it is not to be taken."""
        self._looked, self._before = True, self._store.head(self._key)

    def wait(self) -> None:
        """Return when nobody holds it. Of another machine's process only time tells that it is no more: a lease.

        Raises UserError as soon as the holder is known to live: as a process of this machine, or by a sign of life.
        """
        first = record = self._found()[1]
        if not _is_held(first):
            return
        if processes.is_here(first["process"]):
            raise self._refused(first)
        logger.warning(
            "%s %s %s, or was: waiting up to %d s for a sign of its life",
            *(self.terms.subject, self.terms.held_by, first["holder"], self.terms.lease),
        )
        deadline = time.monotonic() + self.terms.lease
        while record == first and _is_held(record):
            if time.monotonic() > deadline:  # whatever time it is on that machine
                self._silent = first
                return
            time.sleep(_LOOK)
            record = self._found()[1]
        if _is_held(record):
            raise self._refused(record)

    def take(self) -> None:
        """Take it, where nobody holds it, or no more. Raises UserError, naming who has it and until when."""
        stat, record = self._found()
        if _is_held(record) and record != self._silent:
            raise self._refused(record)
        if self._looked and stat != self._before:
            raise self._refused(None)
        try:
            self._put(stat, self._record())
        except Conflict as error:
            raise self._refused(self._found()[1]) from error

    def renew(self) -> None:
        """Hold it for another lease; done right before what only its holder may do.

        Raises TakenOver where another has taken it over. What a process does that stands still for longer than a lease
        between this and its next step, is not prevented by it.
        """
        self._replace(self._record())

    def release(self) -> None:
        """End it; where another has taken it over, nothing happens."""
        with suppress(UserError, OSError):  # in a store that is gone now it ends by itself
            if self._store.head(self._key) is not None:
                self._replace({})

    def _replace(self, record: dict[str, str]) -> None:
        with self._writing:
            for _ in range(_TRIES):
                stat, found = self._found()
                if stat is not None and (found is None or found["mark"] != self._mark):
                    raise self._lost(found)
                with suppress(Conflict):  # be it by an own write that was thought to have failed, and arrives late
                    self._put(stat, record)
                    return
        raise Unavailable(f"store {self._store.url} refuses to replace {self._key}, which nobody changes")

    def _record(self) -> dict[str, str]:
        until = _written(_now() + timedelta(seconds=self.terms.lease))
        return {
            "holder": self._holder,
            "process": self._process,
            "since": self._since,
            "until": until,
            "mark": self._mark,
        }

    def _put(self, replaced: Stat | None, record: dict[str, str]) -> None:
        condition = Matches(replaced.etag) if replaced else Absent()
        self._store.put(self._key, json.dumps(record).encode(), condition=condition)

    def _found(self) -> tuple[Stat | None, dict[str, str] | None]:
        """The object, and after that its record: None where there is none, where it is empty, or damaged: nobody's."""
        for _ in range(2):  # an answer that was altered on its way must free nobody's lock
            stat = self._store.head(self._key)
            if stat is None or stat.size > _LONGEST:
                break
            with suppress(Missing, Malformed):
                record = read_json(self._store, self._key)
                if _is_record(record):
                    return stat, record
        return stat, None

    def _refused(self, record: dict[str, str] | None) -> UserError:
        begun = f"{self.terms.subject} {self.terms.held_by}"
        if record is None:
            return UserError(f"{begun} another, which has just begun or ended: try again")
        return UserError(
            f"{begun} {record['holder']} since {record['since']}: {self.terms.refused}; "
            f"its lock ({self._store.url}/{self._key}) ends at {record['until']} unless it is renewed"
        )

    def _lost(self, record: dict[str, str] | None) -> TakenOver:
        by = f"{record['holder']} at {record['since']}" if record else "another"
        return TakenOver(
            f"the lock of {self.terms.subject} was taken over by {by}, as this process stood still for too long: "
            f"{self.terms.lost}"
        )


def of_promotion(store: Store, model: str) -> Lock:
    """That of a registered model. store: where the locks of promotions lie."""
    return Lock(
        store,
        f"locks/{model}.json",
        Terms(model, "is being promoted by", "wait for it", "decide again", PROMOTION_LEASE),
    )


def of_run(store: Store) -> Lock:
    """That of the run whose folder the store is."""
    refused, lost = "wait for it, stop it, or give another out=", "once that has ended, the same command goes on"
    return Lock(store, "lock.json", Terms(f"the run {store.url}", "is being trained by", refused, lost, RUN_LEASE))


@contextmanager
def held(lock: Lock) -> Iterator[Lock]:
    """Hold the lock. Raises UserError where another does, as `Lock.take` says it.

    It is renewed by a thread, which a store that is away does not end. Whoever acts on the lock renews it first, and is
    told of its loss, or looks at `lost`.
    """
    lock.take()
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(lock.terms.lease / _RENEWALS):
            try:
                lock.renew()
            except TakenOver as error:
                lock.lost = error
                return
            except (UserError, OSError):
                pass  # the store is away, and as long as nobody else takes the lock it is still ours
        lock.release()

    keeping = threading.Thread(target=keep, name="lock", daemon=True)
    keeping.start()
    try:
        yield lock
    finally:
        ended.set()
        keeping.join(_FAREWELL)


def _is_held(record: dict[str, str] | None) -> bool:
    if record is None or processes.has_ended(record["process"]):
        return False
    return _now() < datetime.fromisoformat(record["until"])


def _is_record(found: Any) -> bool:
    names = ("holder", "process", "since", "until", "mark")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        return False
    try:
        return datetime.fromisoformat(found["until"]).tzinfo is not None
    except ValueError:
        return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's that has no name there
        return f"user {os.getuid()}"


def _now() -> datetime:
    return datetime.now(UTC)


def _written(moment: datetime) -> str:
    return moment.isoformat(" ", "seconds")
