"""Evaluations and decisions as tables on the terminal."""

import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from kgt.errors import UserError
from kgt.tasks import TASKS, Protocol
from training import published
from training.mixture import listed

if TYPE_CHECKING:
    from training.evaluation import Row
    from training.promotion import Decision
    from training.provenance import Provenance

_LEFT = 4
_PIPED_WIDTH = 160  # a table that goes to a file has no terminal to fit


def print_rows(rows: Sequence["Row"]) -> None:
    """One line a row and protocol: what was given, what came out, the difference, and what the paper reports."""
    headers, lines = _lines(rows)
    table = _table(*headers[:_LEFT], right=headers[_LEFT:])
    for line in lines:
        table.add_row(*line)
    _show(table)


def markdown(rows: Sequence["Row"]) -> str:
    """The same table for a page, under the names of the models."""
    headers, lines = _lines(rows)
    marks = ["---" if index < _LEFT else "---:" for index in range(len(headers))]
    models = ", ".join(f"`{model}`" for model in dict.fromkeys(row.model for row in rows))
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, marks, *lines))
    return f"Output of {models}. PSNR and SSIM are means over the images.\n\n{table}\n"


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


def print_chain(chain: "Provenance") -> None:
    """Everything that a version comes from, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    tags = chain.tags
    aliases = f" ({', '.join(chain.aliases)})" if chain.aliases else ""
    table.add_row("model", f"{chain.model} version {chain.version}{aliases}")
    table.add_row("weights", f"sha256 {tags.get('weights_sha256', '-')}")
    for commit in _parts(tags.get("git_commit", "-"), "git_commit"):
        table.add_row("code", commit)
    if "history" in tags:
        table.add_row("history", tags["history"])
    if "init" in tags:
        table.add_row("starts from", f"{tags['init']}, sha256 {tags.get('init_sha256', '-')}")
    data = [_parts(tags.get(name, "-"), name) for name in ("dataset", "store", "dataset_digest")]
    for dataset, store, digest in zip_longest(*data, fillvalue="-"):
        table.add_row("data", f"{dataset} in {store}, digest {digest}")
    table.add_row("run", f"{chain.run or '-'}, of parent run {tags.get('parent_run', '-')} {tags.get('run', '')}")
    table.add_row("settings", " ".join(f"{name}={value}" for name, value in sorted(chain.settings.items())) or "-")
    table.add_row("figures", ", ".join(f"{name} {value:.6g}" for name, value in sorted(chain.metrics.items())) or "-")
    table.add_row("environment", tags.get("environment", "-"))
    for name, value in sorted(tags.items()):
        if name.startswith("promotion."):
            table.add_row(name, value)
    table.add_row("the chain", "is whole" if not chain.gaps else f"has gaps: {'; '.join(chain.gaps)}")
    _show(table)


def _parts(tag: str, name: str) -> list[str]:
    """What a tag lists; one that was spoilt as it stands, as it must not hide the rest of the chain."""
    try:
        return listed(tag, name)
    except UserError:
        return [tag]


def _lines(rows: Sequence["Row"]) -> tuple[list[str], list[list[str]]]:
    """(headers, cells). Columns that no row has anything for are left out; the first `_LEFT` are words."""
    headers = ["task", "set", "setting", "measured on", "k", "images", "input", "SSIM", "output", "SSIM", "gain"]
    headers += ["s an image", "paper"]
    lines = [
        _line(row, protocol, suffix)
        for row in rows
        for suffix, protocol in (
            ("", TASKS[row.task].protocol),
            *((f"_{key}", protocol) for key, protocol in TASKS[row.task].also),
        )
    ]
    filled = [index for index in range(len(headers)) if any(line[index] for line in lines)]
    return [headers[index] for index in filled], [[line[index] for index in filled] for line in lines]


def _line(row: "Row", protocol: Protocol, suffix: str) -> list[str]:
    figures = row.record()
    given, out = figures[f"input_psnr{suffix}"], figures[f"psnr{suffix}"]
    border = f", {protocol.border} px cut" if isinstance(protocol.border, int) and protocol.border else ""
    border = ", scale px cut" if protocol.border == "scale" else border
    known = row.published if suffix == published.SUFFIXES.get(row.task, "") else {}
    return [
        row.task,
        row.set,
        row.setting,
        protocol.space.upper() + border,
        "" if row.k is None else str(row.k),
        str(row.images),
        f"{given:.2f} dB",
        f"{figures[f'input_ssim{suffix}']:.4f}",
        f"{out:.2f} dB",
        f"{figures[f'ssim{suffix}']:.4f}",
        f"{out - given:+.2f}",
        f"{row.seconds:.2f}" if row.seconds else "",
        ", ".join(f"{psnr:.2f} ({model})" for model, psnr in known.items()),
    ]


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _show(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
