"""What runs on the cluster, without its imports: the driver names these functions and loads no torch or DeepSpeed."""

import logging
import sys
from typing import Any

from kgt.errors import UserError
from pipelines.shards import ShardError
from training.checkpoint import CheckpointError
from training.plan import Job


class NotFinite(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


class TaskFailed(RuntimeError):
    """A task failed for good: why, in one line, and the whole story where that line is not all there is to know."""

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason, trace)
        self.reason, self.trace = reason, trace


FINAL = (UserError, ShardError, CheckpointError, NotFinite)
"""Failures that a new start from the last checkpoint would only meet again."""


def _is_of_a_fault(_: logging.LogRecord) -> bool:
    """Ray logs the trace of whatever a worker raises, while it handles it. A FINAL failure's one line says it all."""
    return not isinstance(sys.exc_info()[1], FINAL)


def first_line(error: BaseException) -> str:
    """The error in one line; a UserError speaks for itself."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def fit(job: Job, board: Any) -> None:
    """See fit.fit."""
    from training.fit import fit as work

    work(job, board)


def train(loop: dict[str, Any]) -> None:
    """See worker.train."""
    from training.worker import train as work

    logging.getLogger("ray.train.v2._internal.util").addFilter(_is_of_a_fault)
    work(loop)


def finish(job: Job, run: str, lineage: dict[str, str]) -> dict[str, Any]:
    """See finish.finish."""
    from training.finish import finish as work

    return work(job, run, lineage)
