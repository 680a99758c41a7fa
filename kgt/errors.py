"""The one kind of error that is the user's to mend, and how a command ends by it."""

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

Arguments = ParamSpec("Arguments")


class UserError(ValueError):
    """Bad input. The message is one line that names the thing and the way out.

    Entry scripts print it after `error: ` and exit with status 2; every other exception is a fault and keeps its trace.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM: what stops a command from elsewhere, as Ctrl-C does from its terminal."""


def as_command(interrupted: str = "interrupted") -> Callable[[Callable[Arguments, int]], Callable[Arguments, int]]:
    """Make a function that returns an exit code the `main` of a command, whose ends are the same everywhere.

    A UserError becomes a line on stderr and exit code 2, Ctrl-C and SIGTERM the line `interrupted` and exit codes 130
    and 143.
    """

    def decorate(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
        @functools.wraps(main)
        def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
            try:
                with _raising_at_sigterm():
                    return main(*arguments, **named)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            except KeyboardInterrupt as end:
                print(interrupted, file=sys.stderr)
                return 143 if isinstance(end, Terminated) else 130

        return run

    return decorate


@contextmanager
def _raising_at_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are heard by the main thread alone
        yield
        return

    def heard(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
