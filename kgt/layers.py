"""The parts of a KGT: position bias, attention, feed-forward, layer, stage, and the sampling between levels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kgt.attention import key_graph_attention
from kgt.config import KGTConfig, neighbours
from kgt.graph import KeyGraph, key_graph
from kgt.windows import Windows


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
        rows, columns = (torch.arange(1 - s, s, dtype=wide, device=device) for s in sides)
        offsets = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1) * (8 / (self.window - 1))
        offsets = offsets.sign() * (offsets.abs() + 1).log2() / math.log2(8)
        with torch.autocast(device.type, enabled=False):
            hidden = F.relu(F.linear(offsets, self.weight1.to(wide), self.bias1.to(wide)))
            return 16 * F.linear(hidden, self.weight2.to(wide)).movedim(-1, 0).sigmoid()


class Attention(nn.Module):
    """Multi-head cosine attention over the stage's graph."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.logit_scale = nn.Parameter(torch.full((heads,), math.log(10.0)))
        self.position = PositionBias(heads, window)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, graph: KeyGraph, sides: tuple[int, int]) -> Tensor:
        """(W, N, C) → (W, N, C)."""
        out = key_graph_attention(*self.project(x), graph, self.logit_scale, self.position(sides))
        return self.proj(out.transpose(1, 2).flatten(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W, N, C) → q, k, v, each (W, h, N, d)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


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
    """One Key-Graph, the layers that attend along it, a convolution, and a skip around all (paper §3.1)."""

    def __init__(self, dim: int, layers: int, heads: int, config: KGTConfig, *, shifted: bool) -> None:
        super().__init__()
        self.window, self.similarity, self.shifted = config.window, config.similarity, shifted
        self.layers = nn.ModuleList(KGTLayer(dim, heads, config) for _ in range(layers))
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

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
            nodes = layer(nodes, graph, windows.sides)
        return x + self.conv(windows.reverse(nodes))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of every pixel's channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
