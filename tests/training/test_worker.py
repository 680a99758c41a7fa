"""What a worker makes of a step that cannot be."""

from types import SimpleNamespace

import pytest
import torch

from kgt.errors import UserError
from training import worker
from training.config import RunConfig
from training.data import Batch
from training.losses import l1
from training.phases import Phase


class Full:
    """An engine on a GPU without room."""

    def forward(self, degraded: torch.Tensor, k: int) -> torch.Tensor:
        raise torch.OutOfMemoryError


def test_a_batch_that_the_gpu_cannot_hold_is_the_users_to_cut() -> None:
    config = RunConfig(task="denoise", batch_size=16, workers=2, accumulate=2, patch=384)
    job = SimpleNamespace(config=config, plan=SimpleNamespace(phase=lambda step: Phase(0, 384, 16)))
    state = SimpleNamespace(step=0, device=torch.device("cpu"), engine=Full(), loss=l1)
    loader = iter([Batch(torch.zeros(8, 3, 4, 4), torch.zeros(8, 3, 4, 4))])
    with pytest.raises(UserError, match="a micro-step of 4 patches of 384² pixels: use activation_checkpointing"):
        worker._step(job, state, loader, None)
