"""Which process one is, told apart from all others: also from one that gets its number later, or has it elsewhere."""

import os
import re
from pathlib import Path

_PROC = Path("/proc")  # Linux's
_IDENTITY = re.compile(r"(?P<kernel>\S+ pid:\[[0-9]+\]) (?P<number>[0-9]{1,9}) (?P<start>[0-9]+)", re.ASCII)


def identity() -> str:
    """Of this process: the boot of its kernel, its namespace of process numbers, number and start.

    Empty where a system does not tell.
    """
    try:
        return f"{_kernel()} {os.getpid()} {_start(os.getpid())}"
    except OSError:
        return ""


def is_here(process: str) -> bool:
    """Whether `has_ended` can tell of it: a process of that identity has, or had, its number among those seen here."""
    found = _IDENTITY.fullmatch(process)
    return found is not None and identity().startswith(f"{found['kernel']} ")


def has_ended(process: str) -> bool:
    """Whether the process of that identity is known to be no more."""
    if not is_here(process):
        return False
    found = _IDENTITY.fullmatch(process)
    try:
        os.kill(int(found["number"]), 0)  # 0: nothing is sent; /proc may hide the processes of others
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        return _start(int(found["number"])) != found["start"]
    except OSError:
        return False


def _kernel() -> str:
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"


def _start(number: int) -> str:
    """In ticks since the boot; empty for one that was killed, of which its parent has taken no note yet."""
    state, *values = (_PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
    return "" if state in "XZ" else values[18]
