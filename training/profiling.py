"""A trace of some steps by torch.profiler, for chrome://tracing or ui.perfetto.dev, in the run's folder."""

import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipelines.storage import Store


class StepProfiler:
    """Records the steps that are asked for, on the process that owns it."""

    def __init__(self, steps: range, store: Store, folder: str) -> None:
        """steps: counted from 1; empty: none. folder: of the trace, in the store."""
        self._steps, self._store, self._folder = steps, store, folder
        self._recording: profile | None = None
        self._first = 0

    def begin(self, step: int) -> None:
        """Step `step` begins."""
        if step in self._steps and self._recording is None:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._recording = profile(activities=[ProfilerActivity.CPU, *cuda], record_shapes=True, acc_events=True)
            self._recording.start()
            self._first = step

    def end(self, step: int) -> str | None:
        """Step `step` has ended; the trace's address where it was the last of those to be recorded."""
        if self._recording is None or step < self._steps[-1]:
            return None
        self._recording.stop()
        key = f"{self._folder}/steps-{self._first}-{step}.json.gz"
        with tempfile.TemporaryDirectory(prefix="kgt-profile-") as folder:
            path = Path(folder) / "trace.json.gz"
            self._recording.export_chrome_trace(str(path))
            self._store.put(key, path)
        self._recording = None
        return f"{self._store.url}/{key}"
