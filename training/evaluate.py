"""How well a model restores a set of images, by the published protocol of its task.

    python training/evaluate.py task=jpeg images=DIR model=input
    python training/evaluate.py task=denoise images=sample tasks.denoise.sigma=[15,25,50] model=weights.safetensors
    python training/evaluate.py task=deblur degraded=DIR clean=DIR model=models:/kgt-deblur@champion report=rows.json
    python training/evaluate.py task=all images=sample 'model=models:/kgt-{task}@champion'

model=input measures the degraded images themselves: bicubic for sr, Malvar for demosaic.
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
from training import evaluation, tables


@dataclass
class Options:
    """What the command line can say."""

    task: Any = field(default="all", metadata=about("one task, a list as [sr,denoise], or all"))
    images: str = field(default="", metadata=about("clean images: a folder, s3://bucket/folder, or sample"))
    degraded: str = field(default="", metadata=about("ready pairs instead: the folder of degraded images"))
    clean: str = field(default="", metadata=about("… and the folder of their clean ones"))
    model: str = field(
        default="input", metadata=about("input, a weights file or models:/…; {task} in it stands for the task's name")
    )
    report: str = field(default="", metadata=about("write the rows to this JSON file"))
    k: int | None = field(default=None, metadata=about("neighbours a node of 1024; empty: the model's own"))
    tile: int | None = field(default=None, metadata=about("side of the tiles, in pixels; empty: as large as is wise"))
    limit: int = field(default=0, metadata=about("only so many images; 0: all"))
    device: str = field(default="cpu", metadata=about("where the model runs: cpu or cuda"))
    tasks: dict[str, Any] = field(
        default_factory=dict, metadata=about("tasks.<task>.<setting>=10, [10,20] or {min: 10, max: 20}")
    )


def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    try:
        options = parse(Options, argv, __doc__)
        if options.report:
            check_report(Path(options.report))
        rows = []
        for task in expand_tasks(options.task):
            rows += evaluation.evaluate_task(
                task,
                images=options.images,
                degraded=options.degraded,
                clean=options.clean,
                model=options.model.replace("{task}", task),
                changes=options.tasks.get(task),
                k=options.k,
                tile=options.tile,
                limit=options.limit,
                device=options.device,
            )
        tables.print_rows(rows)
        if options.report:
            write_report(Path(options.report), [row.record() for row in rows])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
