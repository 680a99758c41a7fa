"""Makes a task's challenger its champion if it restores images better than the present champion.

    python training/promote.py task=all images=sample
    python training/promote.py task=denoise images=DIR tasks.denoise.sigma=25
    python training/promote.py task=all images=DIR only_new=true

Without a champion the challenger must beat the degraded images themselves (model=input). Every decision, with its
figures, is written to $KGT_HOME/reports/<task>.json and, as tags, to the model's version. With only_new=true, which a
timer runs every few minutes, tasks are left out whose challenger is decided about or is not there yet.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kgt.errors import UserError
from pipelines.json_report import check_report, write_report
from pipelines.options import about, expand_tasks, parse
from training import evaluation, promotion, tables, tracking


@dataclass
class Options:
    """What the command line can say."""

    task: Any = field(default="all", metadata=about("one task, a list as [sr,denoise], or all"))
    images: str = field(default="", metadata=about("clean images: a folder, s3://bucket/folder, or sample"))
    degraded: str = field(default="", metadata=about("ready pairs instead: the folder of degraded images"))
    clean: str = field(default="", metadata=about("… and the folder of their clean ones"))
    report: str = field(default="", metadata=about("write all decisions to this JSON file too"))
    k: int | None = field(default=None, metadata=about("neighbours a node of 1024; empty: the model's own"))
    tile: int | None = field(default=None, metadata=about("side of the tiles, in pixels; empty: as large as is wise"))
    limit: int = field(default=0, metadata=about("only so many images; 0: all"))
    only_new: bool = field(default=False, metadata=about("only challengers about which nothing was decided yet"))
    device: str = field(default="cpu", metadata=about("where the models run: cpu or cuda"))
    tasks: dict[str, Any] = field(
        default_factory=dict, metadata=about("tasks.<task>.<setting>=10, [10,20] or {min: 10, max: 20}")
    )


def main(argv: Sequence[str]) -> int:
    """Run; the exit code: 0 if every task was decided, 2 if one could not be."""
    try:
        options = parse(Options, argv, __doc__)
        names = expand_tasks(options.task)
        evaluation.check_images(options.images, options.degraded, options.clean)
        reports = [promotion.report_path(task) for task in names]
        for path in [*reports, Path(options.report)] if options.report else reports:
            check_report(path)
        tracking.open_tracking()
        if options.only_new:
            names = [task for task in names if promotion.undecided(task)]
        decisions = []
        for task in names:
            how = {
                name: getattr(options, name) for name in ("images", "degraded", "clean", "k", "tile", "limit", "device")
            }
            decisions.append(promotion.promote(task, changes=options.tasks.get(task), **how))
        decided = [decision for decision in decisions if decision.verdict != "failed"]
        if options.report:
            write_report(Path(options.report), [decision.record() for decision in decided])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was decided before stays decided", file=sys.stderr)
        return 130
    if decided:
        tables.print_decisions(decided)
    for decision in decisions:
        if decision.verdict == "failed":
            print(f"error: {decision.task}: {decision.reason}", file=sys.stderr)
    return 0 if len(decided) == len(decisions) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
