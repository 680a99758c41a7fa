"""Where each of our implementations wins, by the size of the window, the neighbours and the width of a head."""

from typing import Any

import torch

from kgt.graph import key_graph
from tests.benchmarks.features import random_features
from tests.benchmarks.goals import PASSES
from tests.benchmarks.harness import finish_of, interleave
from tests.benchmarks.peers import both, forward, implementations, problem

SIDES, SHARES, WIDTHS = (8, 10, 12, 16, 32), (16, 8, 4, 2, 1), (30, 32, 64)
_CHANNELS, _NODES = 192, 2048


def sweep(
    device: torch.device,
    dtype: torch.dtype,
    *,
    runs: int,
    sides: tuple[int, ...] = SIDES,
    widths: tuple[int, ...] = WIDTHS,
) -> list[dict[str, Any]]:
    """Rows: a window of N nodes that keep N/16 … N neighbours, about 2048 nodes and 180 or 192 channels in all.

    The last columns are the fastest one's time over that of what the dispatcher picks: below 1 where it is wrong. On
    random numbers: a graph's structure changes no implementation's work on the CPU. torch gather is left out, for it
    is nowhere near (see the rows of `attention.py`).
    """
    rows = []
    for side in sides:
        nodes = side * side
        for width in widths:
            found = random_features(side, max(1, _NODES // nodes), heads=_CHANNELS // width, width=width)
            for share in SHARES:
                graph = key_graph(found.nodes.to(device), nodes // share)
                given = problem(found, graph, device, dtype)
                row: dict[str, Any] = {"N": nodes, "k": nodes // share, "d": width, "picks": given.ours()}
                ours = [peer for peer in implementations(given) if peer.name != "gather"]
                for name, make in zip(PASSES, (forward, both), strict=True):
                    calls = {peer.name: make(peer, given) for peer in ours}
                    taken = interleave(calls, runs=runs, patience=0.2, finish=finish_of(device))
                    row |= {f"{peer} {name}": seconds for peer, seconds in taken.items()}
                    fastest = min(seconds.median for seconds in taken.values())
                    row[f"× {name}"] = fastest / taken[row["picks"]].median
                rows.append(row)
    return rows
