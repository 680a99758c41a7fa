"""One promotion of a model at a time, also from two machines: a lock in the store, taken by conditional write."""

import getpass
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from kgt.errors import UserError
from pipelines.storage import Absent, Conflict, Missing, Store

_LONGEST = 4096  # bytes of a lock that are read: the store is others' too


@contextmanager
def held(store: Store, model: str) -> Iterator[None]:
    """Hold the model's lock. Raises UserError, naming who has it and the way out, where another does."""
    ours = json.dumps({"holder": _holder(), "since": _now(), "mark": secrets.token_hex(8)}).encode()
    try:
        store.put(_key(model), ours, condition=Absent())
    except Conflict as error:
        raise UserError(
            f"{model} is being promoted by {_described(store, model)}: wait for it; "
            f"where that is no more, end its lock with unlock=true ({store.url}/{_key(model)})"
        ) from error
    try:
        yield
    finally:
        if _read(store, model) == ours:  # someone may have ended it, and another begun
            store.delete(_key(model))


def end(store: Store, model: str) -> str | None:
    """Remove a lock that a promotion left behind; who held it, None if nobody did."""
    if _read(store, model) is None:
        return None
    described = _described(store, model)
    store.delete(_key(model))
    return described


def _described(store: Store, model: str) -> str:
    found = _read(store, model)
    if found is None:
        return "another, which has just ended"
    try:
        record = json.loads(found)
        return f"{record['holder']} since {record['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "someone (the lock is damaged)"


def _read(store: Store, model: str) -> bytes | None:
    try:
        with store.open(_key(model)) as file:
            return file.read(_LONGEST)
    except Missing:
        return None


def _key(model: str) -> str:
    return f"locks/{model}.json"


def _holder() -> str:
    return f"{getpass.getuser()} on {socket.gethostname()} (process {os.getpid()})"


def _now() -> str:
    return datetime.now(UTC).isoformat(" ", "seconds")
