"""What keeps a run's metrics while MLflow does not take them, and leaves out steps that it has already."""

import logging
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.storage import Store
from training import tracking
from training.background import Background
from training.remote import first_line

SEND_SECONDS = 5.0

STEP_FIGURES = frozenset(
    {"step", "loss", "mse", "psnr", "applied", "k", "lr", "patch", "batch_size", "skipped", "memory"}
    | {"wait", "forward", "backward", "update", "seconds"}
)
"""What every step has. Others (validation, checkpoint, the machine) are rare, and never left out."""

logger = logging.getLogger("training")


class MetricLog:
    """A run's metrics, sent in batches. A step that was logged before (a replay after a lost worker) is left out.

    `last`: the highest step that it has. Every record has a `k`; its loss may not be finite, and then not be logged.

    Threads send, so that nothing waits for an MLflow that does not answer, and nothing ends by one that refuses:
    meanwhile records are kept, and of pictures the newest. What it has not taken at the end is told; it lies in the
    run's folder (see `journal`).
    """

    def __init__(self, run: str, every: int) -> None:
        """every: steps between those whose STEP_FIGURES are logged."""
        self._run, self._every = run, every
        self.last = tracking.last_step(run, "k")
        self._records: list[tracking.Timed] = []
        self._pictures: deque[tuple[Store, str]] = deque()
        self._sent = time.monotonic()
        self._failing = False
        self._metrics_out = Background(self._send_metrics)
        self._pictures_out = Background(self._send_pictures)

    def add(self, record: Mapping[str, float]) -> None:
        """One step's figures and its `step`."""
        if record["step"] <= self.last:
            if "resume" in record:  # it is of this start, not of the step
                self._records.append(tracking.timed({name: record[name] for name in ("step", "resume")}))
            return
        self.last = int(record["step"])
        rare = record.keys() - STEP_FIGURES
        if self.last % self._every == 0:
            self._records.append(tracking.timed(record))
        elif rare:  # with k, by which `last` is found again
            self._records.append(tracking.timed({name: record[name] for name in ("step", "k", *rare)}))
        if time.monotonic() - self._sent > SEND_SECONDS:
            self.send()

    def add_picture(self, store: Store, key: str) -> None:
        """Log an image file that lies in the run's store, unless a newer one comes before MLflow takes it."""
        if waiting := self._take_picture():
            _tell_missing(*waiting, "MLflow has not answered since before the next one")
        self._pictures.append((store, key))
        self._pictures_out.start()

    def send(self) -> None:
        """Begin to send what there is."""
        self._metrics_out.start()

    def flush(self, seconds: float) -> None:
        """Send the rest, within that time."""
        deadline = time.monotonic() + seconds
        self.send()
        self._metrics_out.done(seconds)
        if missing := len(self._records):
            logger.error(
                "MLflow has not taken %d steps of run %s: the same command logs them, unless the task is finished",
                *(missing, self._run),
            )
        if not self._pictures_out.done(deadline - time.monotonic()):
            logger.warning("the last picture of run %s is in its folder, but not in MLflow", self._run)

    def _send_metrics(self) -> None:
        try:
            tracking.send_metrics(self._run, self._records)
            self._failing = False
        except Exception as error:  # noqa: BLE001
            # Whatever it is, training goes on and this is tried again.
            if not self._failing:
                logger.warning("metrics of run %s are kept for later: %s", self._run, first_line(error))
            self._failing = True
        self._sent = time.monotonic()

    def _send_pictures(self) -> None:
        while picture := self._take_picture():
            store, key = picture
            try:
                with tempfile.TemporaryDirectory(prefix="kgt-picture-") as folder:
                    path = Path(folder) / key.rpartition("/")[2]
                    path.write_bytes(store.get(key))
                    tracking.log_artifact(self._run, path, "pictures")
            except Exception as error:  # noqa: BLE001
                # The run's store, MLflow, its artifact store: none of them ends a run for a picture.
                _tell_missing(store, key, first_line(error))

    def _take_picture(self) -> tuple[Store, str] | None:
        """The one that waits: whoever takes it, the thread or the next picture, is alone in telling its end."""
        try:
            return self._pictures.popleft()
        except IndexError:
            return None


def close(logs: Sequence[MetricLog], statuses: Mapping[str, str], seconds: float) -> None:
    """Log the rest and end MLflow's runs, a status each, within that time for all of them; neither waits for the other.

    What MLflow does not take is told.
    """
    deadline = time.monotonic() + seconds
    for log in logs:
        log.send()
    tracking.end_runs(statuses, seconds)
    for log in logs:
        log.flush(deadline - time.monotonic())


def _tell_missing(store: Store, key: str, reason: str) -> None:
    logger.warning("%s/%s is not in MLflow: %s", store.url, key, reason)
