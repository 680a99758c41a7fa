"""Where a loss that is not finite comes from."""

import pytest
import torch
from torch import Tensor, nn

from training.diagnosis import first_not_finite


class Logarithm(nn.Module):
    """Not finite at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def diagnose(model: nn.Module, **images: Tensor) -> str | None:
    images = {"degraded": torch.ones(1, 2), "clean": torch.ones(1, 2)} | images
    return first_not_finite(model, model.state_dict(), images, lambda: model(images["degraded"]))


def model() -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.Sequential(Logarithm(), nn.Linear(2, 2)), nn.ReLU())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_images_come_first(bad: float) -> None:
    network = model()
    network[1][1].weight.data.fill_(torch.nan)
    assert diagnose(network, clean=torch.full((1, 2), bad)) == "the images are not finite: clean"


def test_then_weights() -> None:
    network = model()
    for weight in network.parameters():
        weight.data.fill_(torch.nan)
    assert diagnose(network) == "the weights are not finite: 1.1.weight and 1 more"


def test_then_the_first_module_that_returns_what_is_not_finite() -> None:
    network = model()
    assert diagnose(network, degraded=torch.zeros(1, 2)) == "what 1.0 returns is not finite"
    assert not any(module._forward_hooks for module in network.modules())


def test_nothing_is_found_where_all_is_finite() -> None:
    assert diagnose(model()) is None
