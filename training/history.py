"""Under which code, and by what computation, a run's steps were made: `<task>/run.json` keeps it.

A list of stretches, ascending, one more wherever the same command goes on otherwise than before:

    {"step": 1200, "git_commit": "…", "workers": 1, …}    from step 1200 (counted from 0) on; see config.COMPUTATION
"""

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "unknown"
"""The commit of steps that were made before runs kept a history."""

Stretch = Mapping[str, Any]


def extended(history: Sequence[Stretch], step: int, how: Mapping[str, Any]) -> list[Stretch]:
    """The history of a run that goes on from `step`, by that commit and computation.

    What was made beyond that step is lost, and made again.
    """
    kept = [stretch for stretch in history if stretch["step"] < step]
    if step and not kept:
        kept = [{"step": 0, "git_commit": UNKNOWN}]
    if kept and kept[-1] == {**how, "step": kept[-1]["step"]}:
        return kept
    return [*kept, {**how, "step": step}]


def commits(history: Sequence[Stretch]) -> list[str]:
    """All commits, each once."""
    return list(dict.fromkeys(stretch["git_commit"] for stretch in history))


def told(history: Sequence[Stretch]) -> str:
    """What changed, and when, in words; empty where nothing did."""
    names = dict.fromkeys(name for stretch in history for name in stretch if name != "step")
    changed = [name for name in names if len({stretch.get(name) for stretch in history}) > 1]
    if not changed:
        return ""
    return "; ".join(
        f"from step {stretch['step']}: {', '.join(f'{name}={stretch.get(name, UNKNOWN)}' for name in changed)}"
        for stretch in history
    )
