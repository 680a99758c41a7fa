"""Time and memory of contenders, one of which may run out of memory or not compile without ending the others."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tests.benchmarks.compiling import COMPILER_ERRORS, in_words
from tests.benchmarks.harness import Timing, finish_of, interleave
from tests.benchmarks.memory import peak_memory

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Trial:
    """What a call took, or why it failed. memory: bytes at most, beyond what was held before."""

    seconds: Timing | None = None
    memory: int | None = None
    failure: str = ""


def trials(
    calls: Mapping[Name, Callable[[], Any]], device: torch.device | str, *, runs: int, patience: float
) -> dict[Name, Trial]:
    """Calls timed in turns (see `interleave`), then made once more each for their memory."""
    failures: dict[Name, str] = {}

    def guarded(name: Name, call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            if name in failures:
                return
            try:
                call()
            except (torch.OutOfMemoryError, *COMPILER_ERRORS) as error:
                failures[name] = in_words(error)

        return run

    guards = {name: guarded(name, call) for name, call in calls.items()}
    taken = interleave(guards, runs=runs, patience=patience, finish=finish_of(device))
    memory = {name: peak_memory(guard, device) for name, guard in guards.items()}
    return {
        name: Trial(failure=failures[name]) if name in failures else Trial(taken[name], memory[name]) for name in calls
    }
