"""Where each of our implementations wins, by the size of the window, the neighbours and the width of a head."""

from typing import Any

import torch

from kgt.graph import key_graph
from tests.benchmarks.features import random_features
from tests.benchmarks.harness import finish_of, interleave
from tests.benchmarks.peers import implementations, passes, problem

SIDES, SHARES, WIDTHS = (8, 10, 12, 16, 32), (16, 8, 4, 2, 1), (16, 32, 64)
_CHANNELS = 192
_NODES = {"cpu": 2048, "cuda": 65536}
"""In all windows together: fewer would measure how long a GPU takes to launch kernels."""


def sweep(
    device: torch.device,
    dtype: torch.dtype,
    *,
    runs: int,
    sides: tuple[int, ...] = SIDES,
    widths: tuple[int, ...] = WIDTHS,
) -> list[dict[str, Any]]:
    """Rows: a window of N nodes that keep N/16 … N neighbours, `_NODES` and 192 channels in all.

    The last columns are the fastest one's time over that of what the dispatcher picks: below 1 where it is wrong. On
    random numbers: a graph's structure changes no implementation's work on the CPU. torch gather is left out, for it
    is nowhere near (see the rows of `attention.py`).
    """
    rows = []
    for side in sides:
        nodes = side * side
        for width in widths:
            found = random_features(side, max(1, _NODES[device.type] // nodes), heads=_CHANNELS // width, width=width)
            for share in SHARES:
                graph = key_graph(found.nodes.to(device), nodes // share)
                given = problem(found, graph, device, dtype)
                row: dict[str, Any] = {"N": nodes, "k": nodes // share, "d": width, "picks": given.ours()}
                ours = [peer for peer in implementations(given) if peer.name != "gather"]
                for name, make in passes(given).items():
                    calls = {peer.name: make(peer) for peer in ours}
                    taken = interleave(calls, runs=runs, patience=0.2, finish=finish_of(device))
                    row |= {f"{peer} {name}": seconds for peer, seconds in taken.items()}
                    fastest = min(seconds.median for seconds in taken.values())
                    row[f"× {name}"] = fastest / taken[row["picks"]].median
                rows.append(row)
    return rows
