"""Progressive patches: which patches, and how many, a step takes. Loads no torch.

After Restormer (Zamir et al. 2022, §3.3): small patches in large batches first, then larger ones in smaller batches.
Everything is a function of the settings and the step alone, so a run may stop and go on anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kgt.errors import UserError


@dataclass(frozen=True)
class Phase:
    """From step `start` on (counted from 0): the side of the degraded patches in pixels, and the pairs of a step."""

    start: int
    patch: int
    batch_size: int


def phases_of(
    patch: int | Sequence[int], batch_size: int | Sequence[int], milestones: Sequence[float], steps: int
) -> tuple[Phase, ...]:
    """The phases of a run of `steps` steps; those that would have no step are left out.

    patch, batch_size: one number for all phases, or one a phase. milestones: where the second and later phases begin,
    as ascending fractions of the steps; of no account where both are numbers.

    Raises UserError where the lists do not fit together.
    """
    lists = [values for values in (patch, batch_size) if not isinstance(values, int)]
    if not lists:
        return (Phase(0, patch, batch_size),)
    for name, values in (("patch", patch), ("batch_size", batch_size)):
        if not isinstance(values, int) and len(values) != len(milestones) + 1:
            raise UserError(
                f"{name}={written(values)}: {len(milestones)} patch_milestones divide a run into "
                f"{len(milestones) + 1} phases, so give as many numbers, or one"
            )
    starts = [0, *(round(steps * milestone) for milestone in milestones)]
    count = len(starts)
    patches, batch_sizes = ([values] * count if isinstance(values, int) else values for values in (patch, batch_size))
    phases = [Phase(*values) for values in zip(starts, patches, batch_sizes, strict=True)]
    ends = [*starts[1:], steps]
    return tuple(phase for phase, end in zip(phases, ends, strict=True) if phase.start < end)


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of step `step`."""
    return next(phase for phase in reversed(phases) if phase.start <= step)


def samples_each(phases: Sequence[Phase], step: int) -> list[int]:
    """How many pairs those steps of each phase took that come before `step`."""
    ends = [*(phase.start for phase in phases[1:]), step]
    return [max(0, min(end, step) - phase.start) * phase.batch_size for phase, end in zip(phases, ends, strict=True)]


def samples_before(phases: Sequence[Phase], step: int) -> int:
    """How many pairs the steps before `step` took."""
    return sum(samples_each(phases, step))


def written(values: int | Sequence[int]) -> str:
    """As on the command line: 64, or [128,160]."""
    return str(values) if isinstance(values, int) else f"[{','.join(map(str, values))}]"
