"""What keeps a run's metrics while MLflow does not answer, and leaves out steps that it has already."""

import logging
import time
from collections.abc import Mapping

from training import tracking

SEND_SECONDS = 5.0

logger = logging.getLogger("training")


class MetricLog:
    """A run's metrics, sent in batches. A step that was logged before (a replay after a lost worker) is left out.

    `last`: the highest step that it has. Every record has a `k`; its loss may not be finite, and then not be logged.

    While MLflow does not answer, records are kept and sent later; what is left at the end is lost, and said so.
    """

    def __init__(self, run: str, every: int) -> None:
        """every: steps between logged ones."""
        self._run, self._every = run, every
        self.last = tracking.last_step(run, "k")
        self._records: list[dict[str, float]] = []
        self._sent = time.monotonic()

    def add(self, record: Mapping[str, float]) -> None:
        """One step's figures and its `step`."""
        if record["step"] <= self.last:
            return
        self.last = int(record["step"])
        if self.last % self._every == 0 or "val_psnr" in record:
            self._records.append(dict(record))
        if time.monotonic() - self._sent > SEND_SECONDS:
            self._send()

    def flush(self) -> None:
        """Send the rest."""
        self._send()
        if self._records:
            logger.error(
                "MLflow does not answer: the metrics of %d steps of run %s are lost", len(self._records), self._run
            )

    def _send(self) -> None:
        self._sent = time.monotonic()
        try:
            tracking.log_metrics(self._run, self._records)
            self._records = []
        except tracking.TrackingError as error:
            logger.warning("MLflow does not answer (%s): metrics are kept for later", error)
