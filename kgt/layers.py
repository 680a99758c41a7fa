"""The parts of a KGT: position bias, attention, feed-forward, layer, stage, and the sampling between levels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kgt.attention import key_graph_attention
from kgt.config import KGTConfig, neighbours
from kgt.graph import KeyGraph, key_graph
from kgt.windows import Windows

VECTOR = 16
"""Channels of a head are padded to a multiple of this: one AVX-512 register, and whole 16-byte loads of any type."""


class PositionBias(nn.Module):
    """Continuous relative position bias (Swin V2, eq. 4 and 5): 16 · sigmoid(MLP(log-spaced offset)), one value a head.

    Offsets are normalised by the configured window's M − 1, so a smaller window reads the middle of the same table.
    A leaf that owns its weights, so that it can compute in float32 under any precision (bfloat16 errs by 0.03 near 16).
    """

    HIDDEN = 512

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.weight1 = nn.Parameter(torch.empty(self.HIDDEN, 2))
        self.bias1 = nn.Parameter(torch.empty(self.HIDDEN))
        self.weight2 = nn.Parameter(torch.empty(heads, self.HIDDEN))
        nn.init.normal_(self.weight1, std=1.0)
        nn.init.uniform_(self.bias1, -1.0, 1.0)
        nn.init.normal_(self.weight2, std=0.02)

    def forward(self, sides: tuple[int, int]) -> Tensor:
        """(h, 2·rows − 1, 2·columns − 1) for windows of `sides` rows and columns."""
        wide = torch.promote_types(self.weight1.dtype, torch.float32)
        device = self.weight1.device
        rows, columns = (torch.arange(1 - side, side, dtype=wide, device=device) for side in sides)
        with torch.autocast(device.type, enabled=False):
            # The first layer is linear in the two offsets, so it is a sum of one term a row and one a column.
            down, across = self.weight1.to(wide).split(1, 1)
            down, across = down * self._spaced(rows) + self.bias1.to(wide)[:, None], across * self._spaced(columns)
            hidden = (down[:, :, None] + across[:, None]).relu_()
            bias = 16 * (self.weight2.to(wide) @ hidden.flatten(1)).sigmoid()
            return bias.view(-1, len(rows), len(columns))

    def _spaced(self, offsets: Tensor) -> Tensor:
        """Log-spaced, ±8 for the configured window's largest offset."""
        scaled = offsets * (8 / (self.window - 1))
        return scaled.sign() * (scaled.abs() + 1).log2() / math.log2(8)


class SplitHeads(nn.Linear):
    """The projection to queries, keys and values, every head's channels zero-padded to whole vectors.

    Rows of 30 channels defeat the CPU's vector loads and would be copied for the GPU kernels. Zeros in the weights cost
    less (on two cores, 180 → 3 · 6 · 32 channels took a fifth less time than 180 → 3 · 6 · 30), and change nothing.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, 3 * dim)
        self.heads = heads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W, N, C) → q, k, v, each (W, h, N, d), d padded."""
        weight, bias = (_padded(x.unflatten(0, (3 * self.heads, -1)), 1) for x in (self.weight, self.bias))
        q, k, v = F.linear(x, weight.flatten(0, 1), bias.flatten()).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class MergeHeads(nn.Linear):
    """The projection of all heads' outputs, padded as by SplitHeads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, dim)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """(W, h, N, d), d padded → (W, N, C)."""
        weight = _padded(self.weight.unflatten(1, (self.heads, -1)), 2)
        return F.linear(x.transpose(1, 2).flatten(2), weight.flatten(1), self.bias)


def _padded(x: Tensor, axis: int) -> Tensor:
    """Zeros up to the next multiple of VECTOR along `axis`."""
    missing = -x.shape[axis] % VECTOR
    return F.pad(x, (0, 0) * (x.ndim - 1 - axis) + (0, missing)) if missing else x


class Attention(nn.Module):
    """Multi-head cosine attention over the stage's graph."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.qkv = SplitHeads(dim, heads)
        self.logit_scale = nn.Parameter(torch.full((heads,), math.log(10.0)))
        self.position = PositionBias(heads, window)
        self.proj = MergeHeads(dim, heads)

    def forward(self, x: Tensor, graph: KeyGraph, sides: tuple[int, int]) -> Tensor:
        """(W, N, C) → (W, N, C)."""
        return self.proj(key_graph_attention(*self.qkv(x), graph, self.logit_scale, self.position(sides)))


class KGTLayer(nn.Module):
    """x + LN(Attention(x)), then x + LN(FFN(x)): residual post-norm, as in Swin V2.

    As there, the norms' gains start at zero, so a layer begins as the identity however deep the model.
    """

    def __init__(self, dim: int, heads: int, config: KGTConfig) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, config.window)
        self.norm1 = nn.LayerNorm(dim)
        hidden = dim * config.ffn_ratio
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm2 = nn.LayerNorm(dim)
        nn.init.zeros_(self.norm1.weight)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor, graph: KeyGraph, sides: tuple[int, int]) -> Tensor:
        """(W, N, C) → (W, N, C)."""
        x = x + self.norm1(self.attention(x, graph, sides))
        return x + self.norm2(self.ffn(x))


class Stage(nn.Module):
    """One Key-Graph, the layers that attend along it, a convolution, and a skip around all (paper §3.1).

    checkpointing: see `KGT.checkpoint_activations`.
    """

    def __init__(self, dim: int, layers: int, heads: int, config: KGTConfig, *, shifted: bool) -> None:
        super().__init__()
        self.window, self.similarity, self.shifted = config.window, config.similarity, shifted
        self.layers = nn.ModuleList(KGTLayer(dim, heads, config) for _ in range(layers))
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.checkpointing = False

    def forward(self, x: Tensor, k: int) -> Tensor:
        """(B, C, H, W) → (B, C, H, W); `k` is quoted for 1024 nodes."""
        windows = Windows(*x.shape[2:], self.window, self.shifted)
        nodes = windows.partition(x)
        graph = key_graph(
            nodes,
            neighbours(k, windows.nodes),
            similarity=self.similarity,
            regions=windows.regions(x.device),
        )
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                # The graph is given, not made again: layers draw nothing at random, so no state needs keeping.
                nodes = checkpoint(layer, nodes, graph, windows.sides, use_reentrant=False, preserve_rng_state=False)
            else:
                nodes = layer(nodes, graph, windows.sides)
        return x + self.conv(windows.reverse(nodes))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of every pixel's channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
