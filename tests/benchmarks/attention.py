"""Attention on the CPU: implementation × window × k, forward and forward + backward.

    python tests/benchmarks/attention.py --threads 1 --json attention.json

Graphs, queries, keys and values are those of the first layer of an untrained kgt-s on a photograph (scikit-image's
astronaut): on random numbers graphs look different. Gradients are those of q, k, v, the logit scale and the bias.
"""

import sys
from collections.abc import Callable

import skimage.data
import torch
from harness import arguments, measure, report
from torch import Tensor

from kgt.attention import forced, key_graph_attention
from kgt.config import preset
from kgt.graph import KeyGraph, key_graph
from kgt.layers import Attention
from kgt.model import KGT
from kgt.windows import Windows

IMPLEMENTATIONS = ("dense", "gather", "sparse")


def inputs(side: int, pixels: int) -> tuple[Tensor, list[Tensor]]:
    """The nodes (W, N, C) of a `pixels`² crop in windows of `side`, and leaves for q, k, v, logit scale and bias."""
    torch.manual_seed(0)
    network = KGT(preset("kgt-s", "sr", 2)).network
    photo = torch.from_numpy(skimage.data.astronaut()[:pixels, 100 : 100 + pixels]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        nodes = Windows(pixels, pixels, side).partition(network.norm_in(network.head(photo)))
        attention: Attention = network.stages[0].layers[0].attention
        q, k, v = attention.qkv(nodes)
        leaves = [q, k, v, attention.logit_scale, attention.position((side, side))]
    return nodes, [leaf.detach().requires_grad_() for leaf in leaves]


def forward(leaves: list[Tensor], graph: KeyGraph) -> Tensor:
    """One attention over the graph, gradients recorded."""
    q, k, v, scale, bias = leaves
    return key_graph_attention(q, k, v, graph, scale, bias)


def both(leaves: list[Tensor], graph: KeyGraph) -> Callable[[], object]:
    """A call that runs it forward and backward."""
    return lambda: torch.autograd.grad(forward(leaves, graph).sum(), leaves)


def main(argv: list[str]) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and of the kernels")
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 32], help="window sides")
    parser.add_argument("--pixels", type=int, default=64, help="side of the square crop")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    for side in args.sides:
        nodes, leaves = inputs(side, args.pixels)
        for share in (16, 8, 4, 2, 1):
            k = side * side // share
            row = {"nodes": side * side, "k": k, "graph": measure(lambda n=nodes, k=k: key_graph(n, k), runs=args.runs)}
            graph = key_graph(nodes, k)
            for name in IMPLEMENTATIONS:
                if name == "gather" and k > 64:
                    continue  # seconds a call, and copies of gigabytes
                with forced(name), torch.no_grad():
                    row[f"{name} fwd"] = measure(lambda a=leaves, g=graph: forward(a, g), runs=args.runs)
                with forced(name):
                    row[f"{name} fwd+bwd"] = measure(both(leaves, graph), runs=args.runs)
            rows.append(row)
    title = f"attention, {args.pixels}x{args.pixels} pixels, 6 heads of 30 channels, {args.threads} threads"
    report(title, rows, path=args.json, packages=("torch", "numba", "numpy"))


if __name__ == "__main__":
    main(sys.argv[1:])
