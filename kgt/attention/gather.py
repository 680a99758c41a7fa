"""Attention that copies every node's neighbours out first (the paper's Torch-Gather): for comparison only."""

import torch
from torch import Tensor

from kgt.attention.scores import relative_index, unit
from kgt.graph import KeyGraph


def gather_attention(q: Tensor, k: Tensor, v: Tensor, graph: KeyGraph, scale: Tensor, bias: Tensor) -> Tensor:
    """See `key_graph_attention`; `scale` (h,) is the exponentiated one. Memory W · h · N · k · d; any float type."""
    index = graph.indices.long()  # (W, N, K)
    relative = relative_index(bias.shape, bias.device).expand(len(index), -1, -1).gather(2, index)
    scores = torch.einsum("whnd,whnkd->whnk", unit(q), _rows(unit(k), index)) * scale[:, None, None]
    scores = scores + bias.flatten(1)[:, relative].transpose(0, 1)
    scores = scores.masked_fill(~graph.valid()[:, None], -torch.inf)
    return torch.einsum("whnk,whnkd->whnd", scores.softmax(-1), _rows(v, index))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """(W, h, N, d) and (W, N, K) → (W, h, N, K, d)."""
    window = torch.arange(len(x), device=x.device)[:, None, None]
    return x.transpose(1, 2)[window, index].movedim(3, 1)
