"""The one kind of error that is the user's to mend, and how a command ends by it."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class UserError(ValueError):
    """Bad input. The message is one line that names the thing and the way out.

    Entry scripts print it after `error: ` and exit with status 2; every other exception is a fault and keeps its trace.
    """


def as_command(interrupted: str = "interrupted") -> Callable[[Callable[Arguments, int]], Callable[Arguments, int]]:
    """Make a function that returns an exit code the `main` of a command, whose ends are the same everywhere.

    A UserError becomes a line on stderr and exit code 2, Ctrl-C the line `interrupted` and exit code 130.
    """

    def decorate(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
        @functools.wraps(main)
        def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
            try:
                return main(*arguments, **named)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                print(interrupted, file=sys.stderr)
                return 130

        return run

    return decorate
