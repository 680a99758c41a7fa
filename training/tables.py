"""Evaluations and decisions as tables on the terminal."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from kgt.tasks import TASKS, Protocol

if TYPE_CHECKING:
    from training.evaluation import Row
    from training.promotion import Decision

_PIPED_WIDTH = 160  # a table that goes to a file has no terminal to fit


def print_rows(rows: Sequence["Row"]) -> None:
    """One line a row and protocol: what was given, what came out, and the difference."""
    table = _table("task", "set", "setting", "measured on", right=("images", "input", "SSIM", "output", "SSIM", "gain"))
    for row in rows:
        _line(table, row, TASKS[row.task].protocol, "")
        for key, protocol in TASKS[row.task].also:
            _line(table, row, protocol, f"_{key}")
    _show(table)


def print_decisions(decisions: Sequence["Decision"]) -> None:
    """One line a task: the figures compared, the verdict and why."""
    table = _table("task", right=("input", "champion", "challenger"))
    for name in ("version", "verdict", "because"):
        table.add_column(name, overflow="fold")
    for decision in decisions:
        champion = "-" if decision.champion_psnr is None else f"{decision.champion_psnr:.2f} dB"
        challenger = "-" if decision.psnr is None else f"{decision.psnr:.2f} dB"
        given = "-" if decision.input_psnr is None else f"{decision.input_psnr:.2f} dB"
        version = decision.version or "-"
        table.add_row(decision.task, given, champion, challenger, version, decision.verdict, decision.reason)
    _show(table)


def _line(table: Table, row: "Row", protocol: Protocol, suffix: str) -> None:
    figures = row.record()
    given, out = figures[f"input_psnr{suffix}"], figures[f"psnr{suffix}"]
    border = f", {protocol.border} px cut" if isinstance(protocol.border, int) and protocol.border else ""
    border = ", scale px cut" if protocol.border == "scale" else border
    table.add_row(
        row.task,
        row.set,
        row.setting,
        protocol.space.upper() + border,
        str(row.images),
        f"{given:.2f} dB",
        f"{figures[f'input_ssim{suffix}']:.4f}",
        f"{out:.2f} dB",
        f"{figures[f'ssim{suffix}']:.4f}",
        f"{out - given:+.2f}",
    )


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _show(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
