"""How a run ends when Ray dies under it: in one line, from which the same command goes on."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
import ray.exceptions
from rich.console import Console

from kgt.errors import UserError

DEATHS = (
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.RayActorError,
    ray.exceptions.RaySystemError,
    ray.exceptions.RpcError,
    ray.exceptions.WorkerCrashedError,
)
"""What Ray raises where it is Ray that died, not the code that it ran."""

_farewells: list[Callable[[], None]] = []


@contextmanager
def surviving() -> Iterator[None]:
    """What is heard of a Ray that died under a run, as a UserError."""
    try:
        yield
    except DEATHS as error:
        raise UserError(_line(type(error).__name__)) from error


@contextmanager
def at_death(farewell: Callable[[], None]) -> Iterator[None]:
    """Have `farewell` called, in another thread, should the raylet's death end this process meanwhile.

    It ends only then: a farewell is short, whatever it waits for.
    """
    _farewells.append(farewell)
    try:
        yield
    finally:
        _farewells.remove(farewell)


def die_with_raylet() -> None:
    """From now on, end this process by one line and exit code 2 as soon as its raylet has died.

    With the raylet dies the store of objects, and Ray's C++ ends a process that touches a dead one, without a word and
    with exit code 1. It touches it itself: some seconds later the node is known to be dead, and Ray notes in that store
    which objects are lost with it. Whether an exception comes before is chance.
    """
    here = ray.get_runtime_context().get_node_id()
    (path,) = (node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here)
    raylet = socket.socket(socket.AF_UNIX)
    try:
        raylet.connect(path)
    except OSError as error:
        raise UserError(_line("its raylet ended")) from error
    threading.Thread(target=_outlive, args=[raylet, here], daemon=True).start()


def _outlive(raylet: socket.socket, node: str) -> None:
    raylet.recv(1)  # nothing is ever said: the kernel ends the connection with the raylet
    if not ray.is_initialized() or ray.get_runtime_context().get_node_id() != node:
        return  # it was this process that left the cluster
    Console(stderr=True).show_cursor()  # a live bar hid it
    print(f"error: {_line('its raylet ended')}", file=sys.stderr, flush=True)
    try:
        for farewell in _farewells:
            farewell()
    finally:
        os._exit(2)


def _line(cause: str) -> str:
    return f"Ray died under the run ({cause}): what is finished is kept, the same command goes on from there"
