"""What keeps a run's metrics while MLflow does not answer, and leaves out steps that it has already."""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines.storage import Store
from training import tracking

SEND_SECONDS = 5.0

logger = logging.getLogger("training")


class MetricLog:
    """A run's metrics, sent in batches. A step that was logged before (a replay after a lost worker) is left out.

    `last`: the highest step that it has. Every record has a `k`; its loss may not be finite, and then not be logged.

    A thread sends, so that nothing waits for an MLflow that does not answer: meanwhile records are kept. What it has
    not taken at the end is told; it lies in the run's folder (see `journal`).
    """

    def __init__(self, run: str, every: int) -> None:
        """every: steps between logged ones, besides those that were validated."""
        self._run, self._every = run, every
        self.last = tracking.last_step(run, "k")
        self._records: list[dict[str, float]] = []
        self._sent = time.monotonic()
        self._sender = ThreadPoolExecutor(1, "mlflow")
        self._pending: list[Future[None]] = []

    def add(self, record: Mapping[str, float]) -> None:
        """One step's figures and its `step`."""
        if record["step"] <= self.last:
            return
        self.last = int(record["step"])
        if self.last % self._every == 0 or "val_psnr" in record:
            self._records.append(dict(record))
        if time.monotonic() - self._sent > SEND_SECONDS and all(future.done() for future in self._pending):
            self._submit(self._send)

    def add_picture(self, store: Store, key: str) -> None:
        """Log an image file that lies in the run's store."""
        self._submit(self._send_picture, store, key)

    def flush(self) -> None:
        """Send the rest."""
        self._submit(self._send)
        for future in self._pending:
            future.result()
        if self._records:
            logger.error(
                "MLflow does not answer: %d steps of run %s are missing there; the same command logs them, unless the "
                "task is finished",
                *(len(self._records), self._run),
            )

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        for future in self._pending:
            if future.done():
                future.result()
        self._pending = [future for future in self._pending if not future.done()]
        self._pending.append(self._sender.submit(work, *arguments))

    def _send(self) -> None:
        batch = self._records[:]
        try:
            tracking.log_metrics(self._run, batch)
            del self._records[: len(batch)]
        except tracking.TrackingError as error:
            logger.warning("MLflow does not answer (%s): metrics are kept for later", error)
        self._sent = time.monotonic()

    def _send_picture(self, store: Store, key: str) -> None:
        with tempfile.TemporaryDirectory(prefix="kgt-picture-") as folder:
            path = Path(folder) / key.rpartition("/")[2]
            path.write_bytes(store.get(key))
            try:
                tracking.log_artifact(self._run, path, "pictures")
            except tracking.TrackingError as error:
                logger.warning("%s/%s is not in MLflow: %s", store.url, key, error)
