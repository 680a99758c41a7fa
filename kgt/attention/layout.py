"""How attention's tensors lie in memory."""

from torch import Tensor


def empty_heads_inside(x: Tensor) -> Tensor:
    """Shaped (W, h, N, d) as x, in memory (W, N, h, d): what the projections before and after want."""
    windows, heads, nodes, width = x.shape
    return x.new_empty(windows, nodes, heads, width).transpose(1, 2)
