"""The goals that attention has, against what was measured."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]
Ratios = list[tuple[float, str]]

PASSES = ("fwd", "fwd+bwd")
_BOTH = PASSES[1]

_DENSE_CPU = {64: 15.0, 128: 8.0, 256: 4.0}
"""Times as fast as masked dense attention, the faster of ours and PyTorch's: forward + backward, N = 1024, by k."""

_SAME_CUDA = {64: 2.0, 128: 2.0, 256: 1.5, 512: 1.2}
"""Times as fast as the best peer that computes the same: forward + backward, N = 1024, by k."""

_UNMASKED_CUDA = {64: 1.5, 128: 1.0}
"""Times as fast as attention to all nodes without bias: forward, N = 1024, graphs of clean inputs, by k."""

_MEMORY_CUDA = 20.0
"""Times less memory than masked dense attention: forward + backward, N = 4096."""

_DISPATCHER = 0.95
"""The fastest implementation's time over that of the dispatcher's choice, on the CPU."""


def attention_goals(rows: Sequence[Row], dispatcher: Sequence[Row], device: str) -> list[Row]:
    """A row for every goal of the device that was measured: what was reached where it is worst.

    rows: of `attention.py`; those of random features count for the dispatcher alone. dispatcher: of `dispatch.sweep`.
    """
    real = [row for row in rows if row["features"] != "random"]
    found = (*_cpu(real), *_dispatcher(rows, dispatcher)) if device == "cpu" else _cuda(real)
    return [goal for goal in found if goal]


def _cpu(rows: Sequence[Row]) -> Iterator[Row | None]:
    dense = [row for row in rows if row["implementation"] in ("dense", "SDPA masked")]
    for k, least in _DENSE_CPU.items():
        at = _at(dense, 1024, k)
        yield _goal(f"N = 1024, k = {k}: masked dense / ours, {_BOTH}", _column(at, f"× {_BOTH}"), least)
    yield _goal(f"any N and k: masked dense / ours, {_BOTH}", _column(dense, f"× {_BOTH}"), 1.0)


def _cuda(rows: Sequence[Row]) -> Iterator[Row | None]:
    same = [row for row in rows if row["implementation"] in ("SDPA masked", "FlexAttention")]
    for k, least in _SAME_CUDA.items():
        at = _at(same, 1024, k)
        yield _goal(f"N = 1024, k = {k}: best peer / ours, {_BOTH}", _column(at, f"× {_BOTH}"), least)
    clean = [row for row in rows if row["features"].endswith("clean")]
    for k, least in _UNMASKED_CUDA.items():
        ours = {row["features"]: row["fwd"].median for row in _at(clean, 1024, k) if row["ours"] and row["fwd"]}
        unmasked = [
            row
            for row in clean
            if row["N"] == 1024 and row["implementation"].startswith("SDPA unmasked")
            if row["fwd"] and row["features"] in ours
        ]
        ratios = [(row["fwd"].median / ours[row["features"]], row["implementation"]) for row in unmasked]
        yield _goal(f"N = 1024, k = {k}: unmasked SDPA / ours, fwd", ratios, least)
    memory = f"MiB {_BOTH}"
    large = [row for row in rows if row["N"] == 4096 and row[memory]]
    ours = {(row["features"], row["k"]): row[memory] for row in large if row["ours"]}
    dense = [row for row in large if row["implementation"] == "dense" and (row["features"], row["k"]) in ours]
    ratios = [(row[memory] / ours[row["features"], row["k"]], _where(row)) for row in dense]
    yield _goal(f"N = 4096: memory of masked dense / ours, {_BOTH}", ratios, _MEMORY_CUDA)


def _dispatcher(rows: Sequence[Row], dispatcher: Sequence[Row]) -> Iterator[Row | None]:
    own = [row for row in rows if row["implementation"] in ("dense", "gather", "sparse", "triton")]
    for name in PASSES:
        ratios = _column(own, f"× {name}") + _column(dispatcher, f"× {name}")
        yield _goal(f"any N, k and head width: our fastest / the dispatcher's choice, {name}", ratios, _DISPATCHER)


def _goal(text: str, ratios: Ratios, least: float) -> Row | None:
    if not ratios:
        return None
    worst, where = min(ratios)
    met = "met" if worst >= least else "missed"
    return {"goal": text, "at least": least, "measured": worst, "where": where, "verdict": met}


def _at(rows: Iterable[Row], nodes: int, k: int) -> list[Row]:
    return [row for row in rows if (row["N"], row["k"]) == (nodes, k)]


def _column(rows: Iterable[Row], name: str) -> Ratios:
    return [(row[name], _where(row)) for row in rows if row[name] is not None]


def _where(row: Row) -> str:
    names = ("features", "N", "k", "d", "implementation", "picks")
    return ", ".join(
        f"{name} {row[name]}" if name in ("N", "k", "d") else str(row[name]) for name in names if name in row
    )
