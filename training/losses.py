"""What training minimises: (restored, clean), both (B, C, H, W) with 1 for white, to a scalar."""

from collections.abc import Callable

import torch
from torch import Tensor


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error."""
    return (restored - clean).abs().mean()


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of √(error² + ε²) (Charbonnier et al. 1994): L1 with a smooth floor."""
    return torch.sqrt((restored - clean).square() + epsilon**2).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "charbonnier": charbonnier}
