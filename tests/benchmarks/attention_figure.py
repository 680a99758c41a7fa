"""Draws docs/attention.png: what a graph keeps, what a tile of queries gathers, and what each implementation takes.

    python tests/benchmarks/attention_figure.py docs/results/attention-cpu.json docs/attention.png

The graph is that of the briefly trained denoising model of `features.py` in one window of a held-out photograph;
the times are those of the JSON that `attention.py` wrote.
"""

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import matplotlib

matplotlib.use("agg")
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from kgt.graph import key_graph
from kgt.ordering import bisection_order
from kgt.tiles import TILE
from tests.benchmarks.features import features

KIND, KEPT, SIDE = "denoise-clean", 64, 32


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what attention.py wrote")
    parser.add_argument("out", type=Path, help="the picture")
    parser.add_argument("--window", type=int, default=7, help="which of 16 windows of held-out photographs")
    parser.add_argument("--steps", type=int, default=120, help="that the model of the features is trained")
    given = parser.parse_args()
    found = features(KIND, SIDE, 16, steps=given.steps)
    nodes, window = found.nodes[given.window], found.pixels[given.window].unflatten(0, (SIDE, SIDE)).numpy()
    mask = key_graph(nodes[None], KEPT).mask()[0]
    vectors = F.normalize(nodes - nodes.mean(0), dim=-1)
    tiles = bisection_order(vectors[None], TILE)[0].long().split(TILE)
    node = SIDE * SIDE // 2 + SIDE // 2
    tile = next(tile for tile in tiles if node in tile)
    union = mask[tile].any(0)

    figure, (one, many, times) = plt.subplots(1, 3, figsize=(13, 4.4), width_ratios=(1, 1, 1.5), layout="constrained")
    _show(one, window, {"#ffd400": mask[node], "#ff2d2d": _only(node)})
    one.set_title(f"a node (red) attends to its {KEPT} most similar\n(yellow) of {SIDE * SIDE}")
    queries = torch.zeros(SIDE * SIDE, dtype=torch.bool)
    queries[tile] = True
    _show(many, window, {"#ffd400": union & ~queries, "#2d7dff": queries})
    many.set_title(
        f"a tile of {TILE} similar queries (blue) gathers\nthe union of their neighbours: {union.float().mean():.0%}"
    )
    _times(times, json.loads(given.json.read_text()))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=110)


def _only(node: int) -> torch.Tensor:
    return torch.arange(SIDE * SIDE) == node


def _show(axes: Axes, window: np.ndarray, marked: dict[str, torch.Tensor]) -> None:
    axes.imshow(window, interpolation="nearest")
    for colour, nodes in marked.items():
        rows, columns = np.divmod(np.flatnonzero(nodes.numpy()), SIDE)
        axes.scatter(columns, rows, s=20, marker="s", facecolors="none", edgecolors=colour, linewidths=1.3)
    axes.set_axis_off()


def _times(axes: Axes, measured: dict) -> None:
    rows = [row for row in measured["rows"] if row["N"] == SIDE * SIDE and row["features"] == KIND]
    for name in dict.fromkeys(row["implementation"] for row in rows):
        points = [
            (row["k"], 1e3 * row["fwd+bwd"]["median"])
            for row in rows
            if row["implementation"] == name and row["fwd+bwd"]
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({row["k"] for row in rows}), sorted({row["k"] for row in rows}))
    axes.minorticks_off()
    axes.set_xlabel("k, neighbours of 1024 nodes")
    axes.set_ylabel("forward + backward, ms")
    axes.set_title(f"{measured['device']}, {measured['nodes'] // 1024} windows of features of a trained model")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


if __name__ == "__main__":
    main()
