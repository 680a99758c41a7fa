"""What the tests of the model share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Of neighbours that are nearly alike, two ways of computing may choose another one: no run draws new ones."""
    torch.manual_seed(0)
