"""Where a loss that is not finite comes from."""

import pytest
import torch
from torch import Tensor, nn

from training.diagnosis import spoilt, spoilt_module


class Logarithm(nn.Module):
    """Not finite at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def test_what_is_not_finite_is_named() -> None:
    fine, nan, infinite = torch.ones(2), torch.tensor([0, torch.nan]), torch.tensor([-torch.inf, 0])
    assert spoilt("images", {"degraded": fine, "clean": fine}) is None
    assert spoilt("images", {"degraded": fine, "clean": nan}) == "the images are not finite: clean"
    assert spoilt("weights", {"a": infinite, "b": fine, "c": nan}) == "the weights are not finite: a and 1 more"


@pytest.mark.parametrize(("given", "words"), [(1.0, None), (0.0, "what 1.0 returns is not finite")])
def test_the_first_module_that_returns_what_is_not_finite_is_named(given: float, words: str | None) -> None:
    model = nn.Sequential(nn.Identity(), nn.Sequential(Logarithm(), nn.Linear(2, 2)), nn.ReLU())
    assert spoilt_module(model, lambda: model(torch.full((1, 2), given))) == words
    assert not any(module._forward_hooks for module in model.modules())
