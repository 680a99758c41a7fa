"""Work whose store is away is tried again, after pauses."""

import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pipelines.storage import Unavailable

PAUSES = (5.0, 15.0, 45.0, 60.0)
"""Seconds before work is tried again whose store did not answer: outages of some minutes are survived."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def patiently(work: Callable[Parameters, Result], *args: Parameters.args, **named: Parameters.kwargs) -> Result:
    """What `work` returns of the arguments. It may be done twice: it is called again after each of the pauses in which
    a store is away. Raises Unavailable where it stays away."""
    for pause in PAUSES:
        try:
            return work(*args, **named)
        except Unavailable as error:
            logger.warning("%s; trying again in %g s", error, pause)
            time.sleep(pause)
    return work(*args, **named)
