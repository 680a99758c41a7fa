"""A picture to degrade."""

import numpy as np
import pytest
from skimage import data


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A real photograph with fine detail and saturated colour: uint8 (157, 203, 3), both sides odd."""
    return np.ascontiguousarray(data.astronaut()[20:177, 150:353])
