"""The self-ensemble: what it may mirror, and that it forgets which way up it was given an image."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kgt.config import KGTConfig
from kgt.ensemble import SelfEnsemble, _done, _undone, symmetries
from kgt.imaging import mosaic
from kgt.tasks import TASKS


class Lopsided(nn.Module):
    """Doubles the size and adds what depends on the place."""

    config = KGTConfig(shape="columnar", dim=8, layers=(1,), heads=(1,), window=8, scale=2, baseline="bicubic")

    def forward(self, x: Tensor, k: int | None = None) -> Tensor:
        large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return large + torch.linspace(0, 1, large.shape[3]) + torch.linspace(0, 2, large.shape[2])[:, None] ** 2


@pytest.mark.parametrize("task", TASKS)
def test_it_answers_alike_however_the_input_is_turned(task: str) -> None:
    x = torch.rand(2, 3, 6, 10)
    ensemble = SelfEnsemble(Lopsided(), task)
    upright = ensemble(x)
    assert upright.shape == (2, 3, 12, 20)
    for symmetry in symmetries(task):
        torch.testing.assert_close(_undone(x := _done(x, symmetry), symmetry), _undone(x, symmetry))
        torch.testing.assert_close(ensemble(x), upright := _done(upright, symmetry))


def test_tasks_with_a_direction_are_turned_less() -> None:
    assert {task: len(symmetries(task)) for task in TASKS} == {
        "deblur": 8,
        "jpeg": 8,
        "denoise": 8,
        "weather": 2,
        "demosaic": 2,
        "sr": 8,
    }


def test_a_mosaic_stays_one(rng: np.random.Generator) -> None:
    """What is done to it is a mosaic of the image that the same is done to."""
    image = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)

    def planes(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy())[None]

    for symmetry in symmetries("demosaic"):
        turned = _done(planes(image), symmetry)[0].numpy().transpose(1, 2, 0)
        assert torch.equal(_done(planes(mosaic(image)), symmetry), planes(mosaic(turned)))
