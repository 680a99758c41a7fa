"""How a feature map is cut into attention windows and put together again."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """The windows of a height × width map: row by row, each `sides` nodes, N = rows · columns of them.

    window: the configured side M; along an axis where the map is smaller, the window is the map.
    shifted: begin half a window in, along every axis that has more than one window (Swin). What lies before wraps round
        to the end, and zeros pad the map to whole windows: `regions` tells which nodes of a window belong together.
    """

    height: int
    width: int
    window: int
    shifted: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of one window."""
        return min(self.window, self.height), min(self.window, self.width)

    @property
    def nodes(self) -> int:
        """N, the nodes of one window."""
        return self.sides[0] * self.sides[1]

    @property
    def counts(self) -> tuple[int, int]:
        """Windows along each axis."""
        return -(-self.height // self.sides[0]), -(-self.width // self.sides[1])

    @property
    def shift(self) -> tuple[int, int]:
        """Rows and columns that wrap round."""
        return tuple(s // 2 if self.shifted and n > 1 else 0 for s, n in zip(self.sides, self.counts, strict=True))

    def partition(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B · windows, N, C)."""
        (rows, columns), (down, across), shift = self.sides, self.counts, self.shift
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, across * columns - self.width, 0, down * rows - self.height))
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        x = x.reshape(x.shape[0], down, rows, across, columns, -1).transpose(2, 3)
        return x.reshape(-1, self.nodes, x.shape[-1])

    def reverse(self, nodes: Tensor) -> Tensor:
        """(B · windows, N, C) → (B, C, H, W), channels last in memory."""
        (rows, columns), (down, across), shift = self.sides, self.counts, self.shift
        x = nodes.reshape(-1, down, across, rows, columns, nodes.shape[-1]).transpose(2, 3)
        x = x.reshape(-1, down * rows, across * columns, nodes.shape[-1])
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x[:, : self.height, : self.width].permute(0, 3, 1, 2)

    def regions(self, device: torch.device | str = "cpu") -> Tensor | None:
        """(windows, N) int8: nodes of one window may be neighbours where these agree; −1 marks padding, which has none.

        None where every node of a window is eligible to every other.
        """
        shift, padded = self.shift, (self.counts[0] * self.sides[0], self.counts[1] * self.sides[1])
        if not any(shift) and padded == (self.height, self.width):
            return None
        row, column = (torch.arange(length, device=device) for length in padded)
        wrapped = (2 * (row < shift[0]).to(torch.int8))[:, None] + (column < shift[1]).to(torch.int8)
        inside = (row < self.height)[:, None] & (column < self.width)
        ids = torch.where(inside, wrapped, -1)[None, None]
        return Windows(*padded, self.window, self.shifted).partition(ids).squeeze(-1)
