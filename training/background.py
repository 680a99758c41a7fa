"""Work that must hold up nobody, done by a daemon thread: whoever waits for it waits as long as they like."""

import threading
from collections.abc import Callable


class Background:
    """One piece of work, done by one thread at a time, as often as it is asked for. It raises nothing."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._asked = False
        self._working = False

    def start(self) -> None:
        """Ask for it; if it is being done, it is done once more afterwards."""
        with self._changed:
            self._asked = True
            if not self._working:
                self._working = True
                threading.Thread(target=self._run, name="background", daemon=True).start()

    def done(self, seconds: float) -> bool:
        """Whether all that was asked for is done within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._working, max(0.0, seconds))

    def _run(self) -> None:
        while self._next():
            self._work()

    def _next(self) -> bool:
        with self._changed:
            self._working, self._asked = self._asked, False
            self._changed.notify_all()
            return self._working
