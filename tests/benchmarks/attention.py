"""Attention over a Key-Graph: our implementations and their peers, forward and backward, time and memory.

    python tests/benchmarks/attention.py --goals --json attention.json
    python tests/benchmarks/attention.py --device cuda --dtype bfloat16 --goals

A row is one implementation on one graph. `ours` marks what the dispatcher picks; the last columns say how many times
longer the row takes than that, below 1 where we lose. k is that of windows of 1024 nodes; smaller and larger ones keep
the same share, as in the model. Rows of a graph are timed in turns; calls that take seconds are timed once. `notes` say
which version of a peer was the faster and thus counts, by which backend, and why a row is empty. The graph is timed
apart, in a table of its own, for it is made once for the layers of a stage. The JSON is written after every graph.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
import torch.nn.functional as F
from torch import Tensor

from kgt.config import RANDOM_TOPK, neighbours
from kgt.graph import KeyGraph, key_graph
from kgt.ordering import bisection_order
from kgt.tiles import TILE
from tests.benchmarks.compiling import forbid_falling_back
from tests.benchmarks.dispatch import sweep
from tests.benchmarks.features import KINDS, SUBJECTS, Features, features, trained
from tests.benchmarks.goals import PASSES, attention_goals
from tests.benchmarks.harness import (
    Timing,
    arguments,
    device_arguments,
    device_of,
    finish_of,
    measure,
    print_table,
    report,
    start,
    store,
)
from tests.benchmarks.peers import Peer, Problem, detached, implementations, passes, peers, problem
from tests.benchmarks.trials import Trial, trials

_BACKWARD = PASSES[1]

LAYERS = 6
"""Layers of a kgt-s stage, which share its graph."""

_PATIENCE = 1.0
"""Seconds of a call beyond which it is timed once."""


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    device_arguments(parser, "float32", "bfloat16", "float16", of="of q, k and v")
    parser.add_argument(
        "--features",
        nargs="+",
        choices=KINDS,
        default=["denoise-clean", "denoise-noisy", "random"],
        help="of which inputs",
    )
    parser.add_argument("--steps", type=int, default=120, help="that the models of the features are trained")
    parser.add_argument("--sides", type=int, nargs="+", default=[16, 32, 64], help="of the windows")
    parser.add_argument("--k", type=int, nargs="+", default=list(RANDOM_TOPK), help="neighbours a node of 1024")
    parser.add_argument("--nodes", type=int, help="in all windows together (default: 2048, on a GPU 65536)")
    parser.add_argument("--runs", type=int, default=5, help="calls timed of each")
    parser.add_argument("--alone", action="store_true", help="without peers")
    parser.add_argument("--goals", action="store_true", help="sweep the dispatcher too, and say which goals are met")
    given = parser.parse_args()
    device, dtype = device_of(given)
    forbid_falling_back()
    nodes = given.nodes or (65536 if given.device == "cuda" else 2048)
    models = {name: trained(name, given.steps)[1] for name in SUBJECTS if any(name in kind for kind in given.features)}
    rows: list[dict[str, Any]] = []
    graphs: list[dict[str, Any]] = []
    more: dict[str, Any] = {"threads": given.threads, "dtype": given.dtype, "nodes": nodes, "models": models}
    title = f"attention, {given.device}, {given.dtype}, {nodes} nodes, {given.threads} threads"
    how: dict[str, Any] = {"path": given.json, "packages": ("torch", "numba", "numpy"), "device": given.device}
    for side, kind in itertools.product(given.sides, given.features):
        found = features(kind, side, max(1, nodes // side**2), steps=given.steps)
        for k in given.k:
            about = {"features": kind, "N": side * side, "k": k}
            graph, taken = _graph(found, neighbours(k, side * side), device, dtype, given.runs)
            todo = problem(found, graph, device, dtype)
            contenders = implementations(todo) if given.alone else [*implementations(todo), *peers(todo)]
            measured = _rows(todo, contenders, given.runs)
            rows += [about | row for row in measured]
            graphs.append(about | taken | _amortised(taken["graph"], next(row for row in measured if row["ours"])))
            store(title, rows, more=more | {"graphs": graphs}, **how)

    tables = {
        "graphs": ("graphs: construction, and its share of each of the 6 layers that use it", graphs),
        "losses": ("where the dispatcher's choice loses", [row for row in rows if _loses(row)]),
    }
    if given.goals:
        swept = sweep(device, dtype, runs=3 * given.runs)
        tables["dispatcher"] = ("implementations by the size of the window and the width of the head", swept)
        tables["goals"] = ("goals", attention_goals(rows, swept, given.device))
    report(title, rows, more=more | {name: table for name, (_, table) in tables.items()}, **how)
    print("models of the features:", models or "none")
    for heading, table in tables.values():
        print_table(heading, table)


def _graph(
    found: Features, k: int, device: torch.device, dtype: torch.dtype, runs: int
) -> tuple[KeyGraph, dict[str, Any]]:
    """The graph, how long it takes, and the mean share of the nodes that 64 queries similar to each other visit."""
    nodes = found.nodes.to(device, dtype)
    graph = key_graph(nodes, k)
    seconds = measure(lambda: key_graph(nodes, k), runs=runs, finish=finish_of(device))
    return graph, {"union/N": _union(nodes, graph), "graph": seconds}


def _union(nodes: Tensor, graph: KeyGraph) -> float:
    """As the kernels for the GPU order and cut the queries, wherever this runs."""
    vectors = F.normalize(nodes.float() - nodes.float().mean(1, keepdim=True), dim=-1)
    order = bisection_order(vectors, TILE).long()
    shares = [
        mask[rows].any(0).float().mean()
        for mask, queries in zip(graph.mask(), order, strict=True)
        for rows in queries.split(TILE)
    ]
    return float(torch.stack(shares).mean())


def _amortised(graph: Timing, ours: Mapping[str, Any]) -> dict[str, float]:
    """The graph's part of a layer, in milliseconds, and as a multiple of the attention that uses it."""
    part = graph.median / LAYERS
    return {"a layer, ms": 1e3 * part} | {f"/ {name}": part / ours[name].median for name in PASSES if ours[name]}


def _rows(todo: Problem, contenders: Sequence[Peer], runs: int) -> list[dict[str, Any]]:
    """A row for each of the contenders, versions of one together; empty where it cannot do a pass, or fails."""
    rows = {peer.name: {"implementation": peer.name, "ours": peer.name == todo.ours(), **_EMPTY} for peer in contenders}
    notes: dict[str, list[str]] = {name: [] for name in rows}
    fitting = []
    for peer in contenders:
        if peer.name == "gather" and _gathered(todo) > _most_memory(todo.device):
            notes[peer.name].append(f"left out: it would take {_gathered(todo) / 2**30:.1f} GiB")
        else:
            fitting.append(peer)
    for name, make in passes(todo).items():
        able = {(peer.name, peer.version): peer for peer in fitting if peer.trains or name != _BACKWARD}
        tried = trials({key: make(peer) for key, peer in able.items()}, todo.device, runs=runs, patience=_PATIENCE)
        best: dict[str, tuple[Peer, Trial]] = {}
        for key, trial in tried.items():
            peer = able[key]
            if not trial.seconds:
                notes[peer.name].append(f"{' '.join(filter(None, (name, peer.version)))} failed: {trial.failure}")
            elif peer.name not in best or trial.seconds.median < best[peer.name][1].seconds.median:
                best[peer.name] = peer, trial
        for peer, trial in best.values():
            row = rows[peer.name]
            row |= {name: trial.seconds, f"MiB {name}": trial.memory / 2**20}
            if todo.ours() in best:
                row[f"× {name}"] = trial.seconds.median / best[todo.ours()][1].seconds.median
            described = peer.described(peer.leaves if name == _BACKWARD else detached(peer))
            notes[peer.name] += [f"{name}: {described}"] if described else []
    return [row | {"notes": "; ".join(notes[name])} for name, row in rows.items()]


_EMPTY = {f"{column}{name}": None for column in ("", "MiB ", "× ") for name in PASSES}


def _loses(row: Mapping[str, Any]) -> bool:
    return any((row[f"× {name}"] or 1) < 1 for name in PASSES)


def _gathered(todo: Problem) -> int:
    """Bytes that torch gather takes, about: copies of keys and values, and their gradients."""
    windows, heads, nodes, width = todo.grad.shape
    return 4 * 4 * windows * heads * nodes * todo.graph.indices.shape[2] * width


def _most_memory(device: torch.device) -> int:
    """Bytes that torch gather may take: a quarter of a GPU's; 2 GiB on the CPU, where it takes seconds by then."""
    return torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else 2 << 30


if __name__ == "__main__":
    start(main)
