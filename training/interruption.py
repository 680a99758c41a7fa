"""Ctrl-C and SIGTERM: the first asks the run to stop at a checkpoint, the second ends it at once."""

import signal
import time
from types import FrameType
from typing import Any

from kgt.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)

RELAY_SECONDS = 2.0
"""For which a SIGTERM is the same one by another way: Ray stops every process of a job's command, and `timeout`, where
it is one of them, hands it on."""


class Interruption:
    """Listens between entering and leaving, on the main thread. `signal`: the first that came; None before.

    A second one raises KeyboardInterrupt, or Terminated, which is one. See RELAY_SECONDS.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._heard_at = 0.0
        self._before: list[Any] = []

    @property
    def exit_code(self) -> int:
        """What shells make of a process that ended by this signal: 130 or 143."""
        return 128 + (self.signal or signal.SIGINT)

    def __enter__(self) -> "Interruption":
        self._before = [signal.signal(number, self._heard) for number in SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, before)

    def _heard(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._heard_at = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif self.signal != signal.SIGTERM or time.monotonic() - self._heard_at > RELAY_SECONDS:
            raise Terminated
