"""A trace of some steps by torch.profiler, for chrome://tracing or ui.perfetto.dev, in the run's folder."""

import logging

import torch
from torch.profiler import ProfilerActivity, profile

from kgt.errors import UserError
from pipelines.storage import Store, put_made

logger = logging.getLogger("training")


class StepProfiler:
    """Records the steps that are asked for, on the process that owns it."""

    def __init__(self, steps: range, store: Store, folder: str) -> None:
        """steps: counted from 1; empty: none. folder: of the trace, in the store."""
        self._steps, self._store, self._folder = steps, store, folder
        self._recording: profile | None = None
        self._first = self._last = 0

    def begin(self, step: int) -> None:
        """Step `step` begins."""
        if step not in self._steps:
            return
        if self._recording is None:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._recording = profile(activities=[ProfilerActivity.CPU, *cuda], record_shapes=True, acc_events=True)
            self._recording.start()
            self._first = step
        self._last = step

    def end(self, step: int) -> str | None:
        """Step `step` has ended; the trace's address where it was the last of those to be recorded."""
        return None if step in self._steps[:-1] else self.close()

    def close(self) -> str | None:
        """Write what has been recorded, named after the steps that were begun; its address, None where nothing was.

        A trace that cannot be written is a warning: no reason to end a run, or to hide why it ended.
        """
        if self._recording is None:
            return None
        recording, self._recording = self._recording, None
        key = f"{self._folder}/steps-{self._first}-{self._last}.json.gz"
        try:
            recording.stop()
            put_made(self._store, key, lambda path: recording.export_chrome_trace(str(path)))
        except (UserError, OSError, RuntimeError) as error:  # the store's, the disk's, CUDA's
            logger.warning("no trace %s: %s", key, error)
            return None
        return f"{self._store.url}/{key}"
