"""Which version of a task's model is its champion: the challenger, if it restores the same images better."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kgt.errors import UserError
from kgt.home import home
from kgt.restore import NotFiniteError
from pipelines.json_report import write_report
from training import tracking
from training.evaluation import Row, evaluate_task

CHALLENGER, CHAMPION = "challenger", "champion"
VERDICT = "promotion.verdict"


@dataclass(frozen=True)
class Decision:
    """What became of a task's challenger, and why.

    `promoted`: it is the champion now; `kept`: the champion (or none) stays, for the challenger is not better;
    `refused`: the challenger is unfit; `failed`: nothing could be decided. The figures are means in dB over `rows`;
    `champion_psnr` is None where the input itself was to be beaten, `psnr` where the challenger has none.
    """

    task: str
    verdict: Literal["promoted", "kept", "refused", "failed"]
    reason: str
    version: str | None = None
    champion: str | None = None
    input_psnr: float | None = None
    psnr: float | None = None
    champion_psnr: float | None = None
    rows: list[Row] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As a report's JSON has it."""
        return {**asdict(self), "rows": [row.record() for row in self.rows]}


def decide(task: str, **how: Any) -> Decision:
    """Compare, and move the alias `champion` of `kgt-<task>` if the challenger won. The reason becomes its tags.

    `how`: the arguments of `evaluate_task` but task and model. A first champion must beat the degraded images
    themselves. Raises UserError if there is no challenger, or if a model or the images are no good to compare with.
    """
    challenger = tracking.get_alias(task, CHALLENGER)
    if challenger is None:
        raise UserError(
            f"no model is registered as {tracking.model_name(task)}@{CHALLENGER}: "
            f"train one with: python training/run.py task={task}"
        )
    champion = tracking.get_alias(task, CHAMPION)
    decision = _compare(task, str(challenger.version), str(champion.version) if champion else None, how)
    if decision.verdict == "promoted":
        tracking.set_alias(task, CHAMPION, decision.version)
    tracking.set_version_tags(task, decision.version, _tags(decision))  # last: `undecided` goes by them
    return decision


def _compare(task: str, version: str, champion: str | None, how: Mapping[str, Any]) -> Decision:
    def address(number: str) -> str:
        return f"models:/{tracking.model_name(task)}/{number}"

    try:
        rows = evaluate_task(task, model=address(version), **how)
    except NotFiniteError as error:
        return Decision(task, "refused", str(error), version, champion)
    given, psnr = _mean([row.input_psnr for row in rows]), _mean([row.psnr for row in rows])
    if champion == version:
        reason = f"version {version} is the champion already"
        return Decision(task, "kept", reason, version, champion, given, psnr, psnr, rows)
    if champion is None:
        rival, bar, name = [], given, "the degraded input"
    else:
        rival = evaluate_task(task, model=address(champion), **how)
        _check_same_images(task, version, rows, champion, rival)
        bar, name = _mean([row.psnr for row in rival]), f"champion version {champion}"
    better = psnr > bar
    reason = f"{psnr:.3f} dB {'beats' if better else 'does not beat'} {bar:.3f} dB of {name} ({psnr - bar:+.3f})"
    return Decision(
        task,
        "promoted" if better else "kept",
        reason,
        version,
        champion,
        given,
        psnr,
        bar if champion else None,
        [*rows, *rival],
    )


def promote(task: str, **how: Any) -> Decision:
    """`decide`, with what a user can get wrong as a `failed` Decision. Any other is written to `report_path(task)`."""
    try:
        decision = decide(task, **how)
    except UserError as error:
        return Decision(task, "failed", str(error))
    write_report(report_path(task), decision.record())
    return decision


def undecided(task: str) -> bool:
    """Whether the task has a challenger about which nothing was decided yet."""
    challenger = tracking.get_alias(task, CHALLENGER)
    return challenger is not None and VERDICT not in challenger.tags


def report_path(task: str) -> Path:
    """Where the last decision about a task is kept."""
    return home() / "reports" / f"{task}.json"


def _check_same_images(task: str, version: str, rows: Sequence[Row], champion: str, rival: Sequence[Row]) -> None:
    """Raises UserError unless both were measured on the same, as models of different scales are not."""
    measured, other = (
        [(row.set, row.setting, [image["image"] for image in row.per_image]) for row in either]
        for either in (rows, rival)
    )
    if measured != other:
        has, had = (", ".join(setting for _, setting, _ in either) for either in (measured, other))
        model = tracking.model_name(task)
        raise UserError(
            f"{model} version {version} ({has}) cannot be compared with its champion, version {champion} ({had}): "
            f"train a challenger for {had}, or remove the alias {CHAMPION} of {model} in MLflow"
        )


def _mean(figures: Sequence[float]) -> float:
    mean = float(np.mean(figures))
    assert math.isfinite(mean)
    return mean


def _tags(decision: Decision) -> dict[str, str]:
    tags = {VERDICT: decision.verdict, "promotion.reason": decision.reason}
    if decision.rows:
        tags["promotion.images"] = f"{decision.rows[0].set} ({decision.rows[0].images})"
    return tags
