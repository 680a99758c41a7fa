"""What changes from step to step, each a function of the step alone: the learning rate and k."""

import math
from collections.abc import Sequence

from kgt.config import RANDOM_TOPK, TOPK_NODES
from kgt.graph import draw_topk

FINAL = 0.01
"""Where the cosine ends, as a share of the highest rate."""

DECAY = 0.5
"""What each milestone leaves of the rate, as in BasicSR's MultiStepLR."""


def learning_rate(
    step: int, *, peak: float, steps: int, warmup: int, schedule: str = "cosine", milestones: Sequence[float] = ()
) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear warm-up to `peak`, then what `schedule` says.

    cosine: half a period from the warm-up on (Loshchilov & Hutter 2017, SGDR, without restarts). multistep: halved at
    each of the milestones, fractions of all steps.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "multistep":
        return peak * DECAY ** sum(step >= round(steps * milestone) for milestone in milestones)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * progress)))


def neighbours(step: int, *, topk: str, seed: int, dense: bool = False) -> int:
    """The k of a step, quoted for 1024 nodes: drawn of (seed, step), or the fixed number that `topk` is.

    The same on every worker and after every resume (paper §3.3, random top-k). dense: 1024 is drawn, too.
    """
    if topk != "random":
        return int(topk)
    return draw_topk(seed, step, (*RANDOM_TOPK, TOPK_NODES) if dense else RANDOM_TOPK)
