"""Which version of a task's model is its champion: the challenger, if it restores the same images better.

`challenger` is an alias of `kgt-<task>`. `champion`, what users get, and `previous`, what they got before, are aliases
of the same model, or of `kgt-<task>-<into>`, which then gets copies of what is promoted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kgt.errors import UserError
from kgt.home import home
from kgt.registry import model_name
from kgt.restore import NotFiniteError
from pipelines.json_report import write_report
from pipelines.storage import Store
from training import fitness, provenance, tracking
from training.comparison import clean_images, images_needed, paired
from training.evaluation import Row, evaluate_task, load_model
from training.lock import Lock, held, of_promotion
from training.tracking import MlflowException, ModelVersion

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
VERDICT, REASON = "verdict", "reason"
PROMOTING = "promoting"
"""The verdict of a version whose aliases are about to be moved: after that `promoted`, or the promoter was killed."""
ROLLED_BACK = "rolled_back"
"""Noted of a version that was champion and is not to be so again."""


@dataclass(frozen=True)
class Thresholds:
    """What a challenger must reach.

    margin: dB of PSNR that it is better by, at the least, with this `confidence` (a share).
    ssim_tolerance: how much lower its mean SSIM may be.
    latency, memory: the most times as much that it may take as the champion.
    lineage: whether it is refused where its lineage has gaps.
    """

    margin: float = 0.0
    confidence: float = 0.95
    ssim_tolerance: float = 0.001
    latency: float = 1.5
    memory: float = 1.5
    lineage: bool = True

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"confidence={self.confidence}: a share from 0.5 to below 1 is wanted")
        if self.ssim_tolerance < 0:
            raise UserError(f"ssim_tolerance={self.ssim_tolerance}: 0 is the least")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, whether the challenger passed, and what was found, in words."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Decision:
    """What became of a task's challenger, and why.

    `promoted`: it is the champion now; `kept`: the champion (or none) stays, for the challenger is not better;
    `refused`: the challenger is unfit; `rolled back`: the champion before is champion again; `failed`: nothing could
    be decided; `promoting`, in records alone: it is about to be promoted. The figures are means in dB over `rows`;
    `champion_psnr` is None where the input itself was to be beaten, `psnr` where the challenger has none.
    """

    task: str
    verdict: Literal["promoting", "promoted", "kept", "refused", "rolled back", "failed"]
    reason: str
    version: str | None = None
    champion: str | None = None
    input_psnr: float | None = None
    psnr: float | None = None
    champion_psnr: float | None = None
    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As a report's JSON has it."""
        return {**asdict(self), "rows": [row.record() for row in self.rows]}


@dataclass(frozen=True)
class Promoter:
    """Decides about tasks. `how(task)`: the arguments of `evaluate_task` but task and model.

    store: where locks lie. into: the second registered model, `kgt-<task>-<into>`; empty: there is none.
    """

    store: Store
    how: Callable[[str], dict[str, Any]]
    thresholds: Thresholds
    into: str = ""

    def promote(self, task: str) -> Decision:
        """Compare, and move the aliases if the challenger won. The evidence goes to report, tags and an artifact.

        A first champion must beat the degraded images themselves. What a user can get wrong is a `failed` Decision.
        """
        return self._alone(task, self._promote)

    def undecided(self, task: str) -> bool:
        """Whether the task has a challenger about which nothing was decided yet."""
        try:
            challenger = tracking.get_alias(task, CHALLENGER)
        except MlflowException:  # of what was deleted meanwhile: who decides tells of it
            return True
        return challenger is not None and not self._is_decided(challenger.tags)

    def roll_back(self, task: str) -> Decision:
        """Make `previous` the champion again; what was, is marked, so that it is not promoted again."""
        return self._alone(task, self._roll_back)

    def _alone(self, task: str, decide: Callable[[str, Lock], Decision]) -> Decision:
        try:
            with held(of_promotion(self.store, model_name(task, self.into))) as lock:
                return decide(task, lock)
        except UserError as error:
            return Decision(task, "failed", str(error))
        except MlflowException as error:  # of what was deleted meanwhile
            return Decision(task, "failed", f"MLflow refused: {str(error).splitlines()[0]}")

    def _promote(self, task: str, lock: Lock) -> Decision:
        challenger = tracking.get_alias(task, CHALLENGER)
        if challenger is None:
            raise UserError(
                f"no model is registered as {model_name(task)}@{CHALLENGER}: "
                f"train one with: python training/run.py task={task}"
            )
        version, champion = str(challenger.version), self._champion(task)
        decision = self._decide(task, version, dict(challenger.tags), champion)
        lock.renew()
        if self._champion(task) != champion:
            raise UserError(f"{CHAMPION} of {model_name(task, self.into)} was moved meanwhile: decide again")
        if not decision.checks and self._is_decided(challenger.tags):
            write_report(report_path(task, self.into), decision.record())
            return decision  # nothing new was found, and the version keeps the evidence it has
        if decision.verdict == "promoted" and decision.checks:
            about_to = replace(decision, verdict=PROMOTING)
            self._record(challenger, about_to)  # first: who is killed from here on leaves the evidence, and no untruth
            self._crown(task, version, dict(challenger.tags), champion, _tags(about_to, self.into), lock)
        if decision.verdict == "promoted" and self.into:
            tracking.set_version_tags(task, self._champion(task), {tag(VERDICT, self.into): "promoted"}, self.into)
        self._record(challenger, decision)
        return decision

    def _record(self, challenger: ModelVersion, decision: Decision) -> None:
        """The decision as report, as an artifact where it found something, and as tags."""
        report = report_path(decision.task, self.into)
        write_report(report, decision.record())
        if challenger.run_id and decision.checks:
            _log(challenger.run_id, report)
        # Last: polls go by them.
        tracking.set_version_tags(decision.task, str(challenger.version), _tags(decision, self.into))

    def _decide(self, task: str, version: str, tags: dict[str, str], champion: str | None) -> Decision:
        address = f"models:/{model_name(task)}/{version}"
        rolled_back = tags.get(tag(ROLLED_BACK, self.into))
        if self._source_version(task, champion) == version:
            rows = evaluate_task(task, model=address, **self.how(task))
            figures = (_mean([row.input_psnr for row in rows]), *2 * [_mean([row.psnr for row in rows])])
            if tags.get(tag(VERDICT, self.into)) == PROMOTING:
                reason = tags[tag(REASON, self.into)]
                return Decision(task, "promoted", reason, version, champion, *figures, rows=rows)
            reason = f"version {version} is the champion already"
            if rolled_back:
                reason += f"; to roll it back was begun on {rolled_back}: do so again, or remove that tag"
            return Decision(task, "kept", reason, version, champion, *figures, rows=rows)
        if rolled_back:
            reason = f"version {version} was rolled back on {rolled_back}: train another, or remove that tag"
            return Decision(task, "kept", reason, version, champion)
        checks = []
        if self.thresholds.lineage:
            gaps = provenance.trace(address).gaps
            found = f"its lineage is incomplete: {gaps[0]} (or lineage=false)" if gaps else "its lineage is complete"
            checks.append(Check("lineage", not gaps, found))
        network = load_model(address, task, self.how(task)["device"])
        trouble = fitness.trouble_with_hostile_images(network, task)
        checks.append(Check("hostile images", not trouble, trouble or "it answers hostile images with finite ones"))
        fit = all(check.passed for check in checks)
        try:
            rows = evaluate_task(task, model=address, **self.how(task)) if fit else []
        except NotFiniteError as error:
            checks.append(Check("finite", False, str(error)))
        if not all(check.passed for check in checks):
            reason = "; ".join(check.found for check in checks if not check.passed)
            return Decision(task, "refused", reason, version, champion, checks=checks)
        return self._compare(task, version, champion, rows, checks)

    def _compare(self, task: str, version: str, champion: str | None, rows: list[Row], checks: list[Check]) -> Decision:
        rival: list[Row] | None = None
        if champion is not None:
            address = f"models:/{model_name(task, self.into)}/{champion}"
            try:
                rival = evaluate_task(task, model=address, **self.how(task))
            except NotFiniteError as error:
                raise UserError(
                    f"the champion of {model_name(task, self.into)}, version {champion}, fails: {error}; give "
                    f"rollback=true, or remove the alias {CHAMPION} in MLflow, and decide again"
                ) from error
            _check_same_images(model_name(task, self.into), version, rows, champion, rival)
            checks = [*checks, *self._costs(task, version, address)]
        better = self._quality(rows, rival, f"champion version {champion}" if champion else "the degraded input")
        checks = [*better, *checks]
        lacking = [check.found for check in checks if not check.passed]
        return Decision(
            task,
            "kept" if lacking else "promoted",
            "; ".join(lacking) or better[0].found,
            version,
            champion,
            _mean([row.input_psnr for row in rows]),
            _mean([row.psnr for row in rows]),
            None if rival is None else _mean([row.psnr for row in rival]),
            checks,
            [*rows, *(rival or [])],
        )

    def _quality(self, rows: list[Row], rival: list[Row] | None, name: str) -> list[Check]:
        """PSNR and SSIM against the rival's rows, or against the input's."""
        asked = self.thresholds
        psnr, ssim = (paired(rows, rival, figure, asked.confidence) for figure in ("psnr", "ssim"))
        own = _mean([row.psnr for row in rows])
        other = _mean([row.input_psnr for row in rows] if rival is None else [row.psnr for row in rival])
        margin = f", margin {asked.margin:g}" if asked.margin else ""
        smallest, needed = min(rows, key=clean_images), images_needed(asked.confidence)
        fewest = clean_images(smallest)
        surely = fewest >= needed and psnr.least > asked.margin
        found = (
            f"{own:.3f} dB {'beats' if surely else 'does not beat'} {other:.3f} dB of {name} "
            f"({psnr.mean:+.3f}, at the least {psnr.least:+.3f} on {psnr.images} images{margin})"
        )
        if fewest < needed:
            found = (
                f"{own:.3f} dB does not beat {other:.3f} dB of {name}: too few images to be evidence, "
                f"{fewest} in {smallest.set} where {needed} are needed"
            )
        kept = ssim.mean >= -asked.ssim_tolerance
        return [
            Check("psnr", surely, found),
            Check("ssim", kept, f"its SSIM is {'no' if kept else 'too much'} worse ({ssim.mean:+.4f})"),
        ]

    def _costs(self, task: str, version: str, champion: str) -> list[Check]:
        """Time and memory against the champion's."""
        how = self.how(task)
        ours = load_model(f"models:/{model_name(task)}/{version}", task, how["device"])
        theirs = load_model(champion, task, how["device"])
        ratios = {
            "latency": (fitness.latency_ratio(ours, theirs, task, how["k"]), self.thresholds.latency, "time"),
            "memory": (fitness.memory_ratio(ours, theirs, how["k"]), self.thresholds.memory, "memory"),
        }
        return [
            Check(name, ratio <= most, f"it takes {ratio:.2f} times the {of} of the champion (at most {most:g})")
            for name, (ratio, most, of) in ratios.items()
        ]

    def _crown(
        self,
        task: str,
        version: str,
        tags: dict[str, str],
        champion: str | None,
        evidence: dict[str, str],
        lock: Lock,
    ) -> None:
        """Move the aliases, and see that the data of what users get stays."""
        if self.thresholds.lineage:
            provenance.pin(tags, f"{model_name(task)}-v{version}")
        new = version
        if self.into:
            new = tracking.copy_version(task, version, self.into)
            tracking.set_version_tags(task, new, evidence, self.into)
        lock.renew()
        if champion is not None:
            tracking.set_alias(task, PREVIOUS, champion, self.into)
        tracking.set_alias(task, CHAMPION, new, self.into)

    def _roll_back(self, task: str, lock: Lock) -> Decision:
        model = model_name(task, self.into)
        previous, champion = tracking.get_alias(task, PREVIOUS, self.into), self._champion(task)
        if previous is None or champion in (None, str(previous.version)):
            raise UserError(f"{model} has no champion before the present one: '{PREVIOUS}' leads to no other version")
        now = datetime.now(UTC).isoformat(" ", "seconds")
        lock.renew()
        if (source := self._source_version(task, champion)) is not None:
            tracking.set_version_tags(task, source, {tag(ROLLED_BACK, self.into): now})
        tracking.set_alias(task, CHAMPION, str(previous.version), self.into)
        reason = f"version {previous.version} is champion again, version {champion} is not to be promoted again"
        decision = Decision(task, "rolled back", reason, str(previous.version), champion)
        write_report(report_path(task, self.into), decision.record())
        return decision

    def _champion(self, task: str) -> str | None:
        """The champion's version."""
        found = tracking.get_alias(task, CHAMPION, self.into)
        return str(found.version) if found else None

    def _source_version(self, task: str, version: str | None) -> str | None:
        """The version of `kgt-<task>` that a champion is, or is a copy of; None where that was deleted."""
        if version is None or not self.into:
            return version
        return tracking.copied_from(task, tracking.get_version(model_name(task, self.into), version))

    def _is_decided(self, tags: Mapping[str, str]) -> bool:
        return tags.get(tag(VERDICT, self.into), PROMOTING) != PROMOTING


def tag(name: str, into: str = "") -> str:
    """What a version's tag is called: what is decided about one model says nothing of another that it may go into."""
    return f"promotion.{into}.{name}" if into else f"promotion.{name}"


def _log(run: str, report: Path) -> None:
    """The report as an artifact of the challenger's run, where there is one still and the account may write to it."""
    try:
        tracking.log_artifact(run, report, "promotion")
    except (tracking.PermissionDenied, MlflowException) as error:
        found = str(error).splitlines()[0]
        logging.getLogger("training").warning("the report is %s alone, run %s does not take it: %s", report, run, found)


def report_path(task: str, into: str = "") -> Path:
    """Where the last decision about a task is kept."""
    return home() / "reports" / f"{task}{f'-{into}' if into else ''}.json"


def _check_same_images(model: str, version: str, rows: Sequence[Row], champion: str, rival: Sequence[Row]) -> None:
    """Raises UserError unless both were measured on the same, as models of different scales are not."""
    measured, other = (
        [(row.set, row.setting, [image["image"] for image in row.per_image]) for row in either]
        for either in (rows, rival)
    )
    if measured != other:
        has, had = (", ".join(setting for _, setting, _ in either) for either in (measured, other))
        raise UserError(
            f"the challenger, version {version} ({has}), cannot be compared with the champion of {model}, version "
            f"{champion} ({had}): train a challenger for {had}, or remove the alias {CHAMPION} of {model} in MLflow"
        )


def _mean(figures: Sequence[float]) -> float:
    return sum(figures) / len(figures)


def _tags(decision: Decision, into: str) -> dict[str, str]:
    found = {REASON: decision.reason} | {check.name.replace(" ", "_"): check.found for check in decision.checks}
    if decision.rows:
        found["images"] = ", ".join(dict.fromkeys(f"{row.set} ({row.images})" for row in decision.rows))
    return {tag(name, into): value for name, value in (found | {VERDICT: decision.verdict}).items()}
