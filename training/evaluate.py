"""How well a model restores sets of images, by the published protocol of its task.

    python training/evaluate.py task=jpeg images=DIR model=input
    python training/evaluate.py task=denoise images=[CBSD68,Kodak24] model=weights.safetensors report=table.md
    python training/evaluate.py task=sr images=Set5 model=models:/kgt-sr@champion ensemble=true k=[64,128,256,512]
    python training/evaluate.py task=deblur degraded=DIR clean=DIR model=models:/kgt-deblur@champion report=rows.json
    python training/evaluate.py task=all images=sample 'model=models:/kgt-{task}@champion' mlflow=true

model=input measures the degraded images themselves: bicubic for sr, Malvar for demosaic. Settings that are not fixed
by tasks.<task>.<setting> are measured one after the other: sigma 15, 25, 50; quality 10 to 40; scale 2, 3, 4.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kgt.config import TOPK_NODES
from kgt.errors import UserError, as_command
from pipelines.options import about, expand_tasks, parse
from training import report, tables
from training.evaluation import MeasureOptions, evaluate_task, load_model


@dataclass
class Options(MeasureOptions):
    """What the command line can say."""

    model: str = field(
        default="input", metadata=about("input, a weights file or models:/…; {task} in it stands for the task's name")
    )
    k: Any = field(
        default=None, metadata=about("neighbours a node of 1024; several as [64,128]; empty: the model's own")
    )
    ensemble: bool = field(default=False, metadata=about("the mean over flips and turns that the task allows"))
    report: str = field(
        default="", metadata=about("FILE.json, FILE.md, or FILE for both; a sweep of k is drawn beside it")
    )
    mlflow: bool = field(default=False, metadata=about("log the figures, and the report, as a run"))

    def __post_init__(self) -> None:
        asked = self.k if isinstance(self.k, list) else [self.k] if self.k is not None else []
        if self.k == []:
            raise UserError("k=[]: name one, several as k=[64,128], or leave it out for the model's own")
        for k in asked:
            if type(k) is not int or not 1 <= k <= TOPK_NODES:
                raise UserError(f"k={k}: a number from 1 to {TOPK_NODES} is wanted, or several as k=[64,128]")


@as_command("interrupted: nothing was written")
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    options = parse(Options, argv, __doc__)
    files = report.check(options.report)
    if options.mlflow:
        from training import tracking

        tracking.open_tracking()
    models = {task: options.model.replace("{task}", task) for task in expand_tasks(options.task)}
    for task, model in models.items():
        if model != "input":
            load_model(model, task, options.device)  # first, as what comes before one that is missing would be lost
    rows = []
    for task, model in models.items():
        rows += evaluate_task(task, model=model, k=options.k, ensemble=options.ensemble, **options.of(task))
    tables.print_rows(rows)
    written = report.write(files, rows)
    if options.mlflow:
        print(f"MLflow run: {tracking.log_evaluation(vars(options), rows, written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
