"""The closing table of a training run."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from kgt.home import tracking_uri
from training.config import RunConfig
from training.controller import Outcome


def show(config: RunConfig, outcomes: Sequence[Outcome]) -> None:
    """Print what became of every task, and where the run is; the traces of failed ones go to stderr."""
    for outcome in outcomes:
        if outcome.trace:
            print(f"\n{outcome.task} failed:\n{outcome.trace}", file=sys.stderr)
    table = Table("task", "input", "restored", "SSIM", "model", "outcome", box=None, header_style="bold")
    for outcome in outcomes:
        table.add_row(outcome.task, *_figures(outcome), _ending(outcome))
    console = Console(width=None if Console().is_terminal else 160, markup=False)
    console.print(table)
    console.print(f"run: {config.out}", soft_wrap=True, highlight=False)
    uri = tracking_uri()
    where = uri if uri.startswith(("http://", "https://")) else f"mlflow ui --backend-store-uri {uri}"
    console.print(f"MLflow: {where}", soft_wrap=True, highlight=False)


def _figures(outcome: Outcome) -> tuple[str, str, str, str]:
    result = outcome.result
    if result is None:
        return "-", "-", "-", "-"
    model = f"{result['model']} version {result['model_version']}"
    if "psnr" not in result:
        return "-", "-", "-", model
    return f"{result['input_psnr']:.2f} dB", f"{result['psnr']:.2f} dB", f"{result['ssim']:.4f}", model


def _ending(outcome: Outcome) -> str:
    if outcome.stopped:
        return "stopped: the same command goes on"
    if outcome.result is None:
        return f"failed: {outcome.reason}"
    return "finished before; name=… or out=… starts another" if outcome.kept else "registered as challenger"
