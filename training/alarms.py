"""Alarms: what someone should look at while a run goes on. Each is raised once, and cleared when it is over."""

import http.client
import json
import logging
import math
import os
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping

WEBHOOK = "KGT_WEBHOOK"
"""Environment variable: the address that alarms are posted to, as Slack and its like take them ({"text": …}).

Whoever knows such an address may post there: it stands in no setting, log or error message.
"""

STALLED_MINUTES = 10.0
WAIT_SHARE = 0.5
WAIT_STEPS = 50
"""The loader is stalled where this share of the time of so many steps is spent on waiting for it."""

NAN_STREAK = 3
FALLEN_DB = 0.3
POST_SECONDS = 10.0

logger = logging.getLogger("training")


class Alarms:
    """One task's. Feed it the records of the steps, and ask now and then; both give what is to be told."""

    def __init__(self, task: str, checkpoint_minutes: float) -> None:
        """checkpoint_minutes: so long without a checkpoint is an alarm."""
        self._task = task
        self._checkpoint_minutes = checkpoint_minutes
        self._raised: set[str] = set()
        self._steps: deque[tuple[float, float]] = deque(maxlen=WAIT_STEPS)
        self._streak = 0
        self._last_sign: float | None = None
        self._last_checkpoint: float | None = None

    def begin(self, now: float) -> None:
        """Take in that the task starts, and waits for machines first. now: seconds of a clock that does not jump."""
        self._last_sign = now

    def record(self, record: Mapping[str, float], now: float) -> Iterator[str]:
        """Take in one step's record."""
        if self._last_checkpoint is None or "checkpoint" in record:
            self._last_checkpoint = now
        self._last_sign = now
        yield from self.time(now)
        self._steps.append((record["wait"], record["seconds"]))
        waited, whole = (sum(values) for values in zip(*self._steps, strict=True))
        yield from self._when(
            len(self._steps) == WAIT_STEPS and waited > WAIT_SHARE * whole,
            "stalled loader",
            f"{100 * waited / whole:.0f} % of the last {WAIT_STEPS} steps is waiting for data",
        )
        self._streak = 0 if record["applied"] else self._streak + 1
        yield from self._when(
            self._streak >= NAN_STREAK,
            "NaN streak",
            f"{self._streak} steps in a row skipped at step {record['step']:.0f}: loss or gradient not finite",
        )
        if "val_psnr" in record:
            psnr, best = record["val_psnr"], record.get("val_best_psnr", -math.inf)
            before = f", {best:.2f} dB before" if math.isfinite(best) else ""
            fallen = not psnr > best - FALLEN_DB  # NaN, too
            told = f"{psnr:.2f} dB at step {record['step']:.0f}{before}"
            yield from self._when(fallen, "falling validation", told)

    def alive(self, now: float) -> None:
        """Take in that the task does something else than steps, such as validation."""
        if self._last_sign is not None:
            self._last_sign = now

    def time(self, now: float) -> Iterator[str]:
        """What follows from time having passed since the last record. Nothing before the start."""
        if self._last_sign is not None:
            quiet = now - self._last_sign
            yield from self._when(
                quiet > 60 * STALLED_MINUTES,
                "no step",
                f"none for {quiet / 60:.0f} minutes: stalled loader, lost workers, or machines that do not come",
            )
        if self._last_checkpoint is not None:
            unsaved = now - self._last_checkpoint
            yield from self._when(
                unsaved > 60 * self._checkpoint_minutes, "no checkpoint", f"none for {unsaved / 60:.0f} minutes"
            )

    def _when(self, wrong: bool, name: str, what: str) -> Iterator[str]:
        if wrong and name not in self._raised:
            self._raised.add(name)
            yield f"ALARM {self._task}: {name}: {what}"
        elif not wrong and name in self._raised:
            self._raised.remove(name)
            yield f"{self._task}: {name} is over"


def tell(lines: Iterator[str]) -> None:
    """Log each as a warning, and post it to the webhook where there is one. Does not wait for that."""
    for line in lines:
        logger.warning("%s", line)
        if address := os.environ.get(WEBHOOK):
            threading.Thread(target=_post, args=(address, line), name="webhook", daemon=True).start()


def _post(address: str, line: str) -> None:
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(address, json.dumps({"text": line}).encode(), headers=headers)
        urllib.request.urlopen(request, timeout=POST_SECONDS).close()
    except (OSError, ValueError, http.client.HTTPException) as error:  # whose words may hold the address
        reason = error.code if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        logger.warning("the alarm was not posted to $%s: %s", WEBHOOK, reason)
