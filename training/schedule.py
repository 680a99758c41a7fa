"""What changes from step to step, each a function of the step alone: the learning rate and k."""

import math

from kgt.config import RANDOM_TOPK
from kgt.graph import draw_topk


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, final: float = 0.01) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear warm-up, then half a cosine down to `final` · `peak`.

    The cosine is that of Loshchilov & Hutter 2017 (SGDR), without restarts.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def neighbours(step: int, *, topk: str, seed: int) -> int:
    """The k of a step, quoted for 1024 nodes: drawn of (seed, step), or the fixed number that `topk` is.

    The same on every worker and after every resume (paper §3.3, random top-k).
    """
    return draw_topk(seed, step, RANDOM_TOPK) if topk == "random" else int(topk)
