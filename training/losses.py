"""What training minimises: (restored, clean), both (B, C, H, W) with 1 for white, to a scalar, in float32."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error."""
    return (restored - clean).abs().mean()


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of √(error² + ε²) (Charbonnier et al. 1994): L1 with a smooth floor."""
    return torch.sqrt((restored - clean).square() + epsilon**2).mean()


def fft(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error of the images' Fourier transforms, real and imaginary parts (MIMO-UNet, Cho et al. 2021).

    Not normalised, as published: for the same error it grows with the side of the patch, so its weight is small.
    """
    return torch.view_as_real(torch.fft.rfft2(restored - clean)).abs().mean()


LOSSES: dict[str, Loss] = {"l1": l1, "charbonnier": charbonnier, "fft": fft}


def weighted(terms: Mapping[str, float]) -> Loss:
    """The sum of the terms, each with its weight (see `config.loss_terms`)."""

    def loss(restored: Tensor, clean: Tensor) -> Tensor:
        restored, clean = restored.float(), clean.float()
        return sum(weight * LOSSES[name](restored, clean) for name, weight in terms.items())

    return loss
