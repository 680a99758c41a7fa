"""Makes a task's challenger its champion if it restores images better than the present champion.

    python training/promote.py task=all images=sample
    python training/promote.py task=denoise images=[CBSD68,Kodak24] tasks.denoise.sigma=25 margin=0.05
    python training/promote.py task=jpeg images=DIR into=prod store=s3://bucket/shards
    python training/promote.py task=jpeg rollback=true
    python training/promote.py task=all images=DIR only_new=true

Better: the mean difference of PSNR on the same images, surely above `margin` (paired, over the images), while SSIM,
time and memory are not worse by more than is allowed. Every set needs five images, more for more confidence than 95 %.
Without a champion the challenger must beat the degraded images themselves (model=input). It is refused if its output is
not finite somewhere or its lineage has gaps.

Every decision, with its figures, is written to $KGT_HOME/reports/<task>.json, to an artifact of the challenger's run
and, as tags promotion.… (promotion.prod.… with into=prod), to its version. One promotion of a model at a time holds a
lock in the store: name one that all promoters share, which has to be done where MLFLOW_TRACKING_URI is a server. With
only_new=true, which a timer runs every few minutes, tasks are left out whose challenger is decided about or is not
there yet. Exit code: 0 promoted or kept, 3 where a challenger was refused, 2 where nothing could be decided.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.errors import UserError, as_command
from kgt.home import tracking_uri
from kgt.registry import INTO
from pipelines.json_report import check_report, write_report
from pipelines.options import about, expand_tasks, parse
from pipelines.storage import open_store
from training import image_sets, promotion, tables, tracking
from training.evaluation import MeasureOptions
from training.promotion import Promoter, Thresholds


@dataclass
class Options(MeasureOptions):
    """What the command line can say."""

    k: int | None = field(default=None, metadata=about("neighbours a node of 1024; empty: the model's own"))
    margin: float = field(default=0.0, metadata=about("dB that the challenger must be better by, at the least"))
    confidence: float = field(default=0.95, metadata=about("… with this confidence, a share"))
    ssim_tolerance: float = field(default=0.001, metadata=about("how much lower its mean SSIM may be"))
    max_latency_ratio: float = field(default=1.5, metadata=about("most times the champion's time that it may take"))
    max_memory_ratio: float = field(default=1.5, metadata=about("most times the champion's memory that it may take"))
    lineage: bool = field(default=True, metadata=about("refuse a challenger whose lineage has gaps"))
    only_new: bool = field(default=False, metadata=about("only challengers about which nothing was decided yet"))
    into: str = field(default="", metadata=about("promote copies into kgt-<task>-<into>, as into=prod"))
    rollback: bool = field(default=False, metadata=about("make the champion before the present one champion again"))
    store: str = field(
        default="", metadata=about("where locks lie: file:///folder or s3://bucket/folder, for all [$KGT_HOME/shards]")
    )
    report: str = field(default="", metadata=about("write all decisions to this JSON file too"))

    def promoter(self) -> Promoter:
        """Raises UserError for thresholds that are none, no name for a second model, or no store where it takes one."""
        if self.into and not INTO.fullmatch(self.into):
            raise UserError(f"into={self.into}: write letters, digits and dashes, as in into=prod")
        if not self.store and urlsplit(tracking_uri()).scheme not in ("", "file", "sqlite"):
            raise UserError(
                "MLFLOW_TRACKING_URI is a server, whose models others promote too, and a lock on this machine keeps "
                "nobody else out: name a store that all share, as in store=s3://bucket/shards"
            )
        thresholds = Thresholds(
            margin=self.margin,
            confidence=self.confidence,
            ssim_tolerance=self.ssim_tolerance,
            latency=self.max_latency_ratio,
            memory=self.max_memory_ratio,
            lineage=self.lineage,
        )
        return Promoter(open_store(self.store), lambda task: self.of(task) | {"k": self.k}, thresholds, self.into)


@as_command("interrupted: what was decided before stays decided")
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    options = parse(Options, argv, __doc__)
    names = expand_tasks(options.task)
    promoter = options.promoter()
    if not options.rollback:
        image_sets.check_images(options.images, options.degraded, options.clean)
    reports = [promotion.report_path(task, options.into) for task in names]
    for path in [Path(options.report), *reports] if options.report else reports:
        check_report(path)
    tracking.open_tracking()
    if options.only_new:
        names = [task for task in names if promoter.undecided(task)]
    decisions = [promoter.roll_back(task) if options.rollback else promoter.promote(task) for task in names]
    decided = [decision for decision in decisions if decision.verdict != "failed"]
    if options.report:
        write_report(Path(options.report), [decision.record() for decision in decided])
    if decided:
        tables.print_decisions(decided)
    for decision in decisions:
        if decision.verdict == "failed":
            print(f"error: {decision.task}: {decision.reason}", file=sys.stderr)
    if len(decided) < len(decisions):
        return 2
    return 3 if any(decision.verdict == "refused" for decision in decided) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
