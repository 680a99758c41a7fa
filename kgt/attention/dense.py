"""Reference attention over a Key-Graph: all N² scores, those of non-neighbours masked (the paper's Torch-Mask)."""

import torch
from torch import Tensor

from kgt.attention.scores import relative_index, unit
from kgt.graph import KeyGraph


def dense_attention(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, scale: Tensor, bias: Tensor) -> Tensor:
    """See `key_graph_attention`; `scale` (h,) is the exponentiated one. Memory W · h · N²; any float type."""
    relative = relative_index(bias.shape, bias.device)
    # index_select: its backward is several times faster than that of indexing by a matrix.
    pairs = bias.flatten(1).index_select(1, relative.flatten()).unflatten(1, relative.shape)  # (h, N, N)
    scores = scale[:, None, None] * (unit(q) @ unit(k).mT) + pairs
    scores = scores.masked_fill(~graph.mask()[:, None], -torch.inf)
    return scores.softmax(-1) @ v
