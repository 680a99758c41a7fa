"""DeepSpeed, which no other file imports. Its settings are derived from ours in `config.deepspeed_config`."""

import logging
import os
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.config import RunConfig, deepspeed_config

# A job without GPUs is shown none (see fit.py).
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed
import deepspeed.ops

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)
if os.environ["DS_ACCELERATOR"] == "cpu":
    # Else a first start compiles a C++ helper (35 s, needs a compiler) that only inference's all-reduce would use.
    deepspeed.ops.__compatible_ops__ = {}


class DeepSpeedEngine:
    """`step.Engine` on many processes. The process group is there already (Ray Train makes it)."""

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self._zero = config.zero
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, dist_init_required=False, config=deepspeed_config(config)
        )
        if self._zero:
            # In fp32 DeepSpeed would step on NaN gradients; with this it skips them, as it does in fp16.
            self._engine.optimizer.check_grad_overflow = True
        self.model: nn.Module = self._engine.module

    def forward(self, degraded: Tensor, k: int) -> Tensor:
        """See step.Engine."""
        return self._engine(degraded, k)

    def backward(self, loss: Tensor) -> None:
        """See step.Engine. Averages the gradients over the processes, too."""
        self._engine.backward(loss)

    def update(self, rate: float) -> bool:
        """See step.Engine."""
        if not self._zero:
            gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
            if not torch.isfinite(nn.utils.get_total_norm(gradients)):
                self._engine.zero_grad()
                return False
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        return bool(self._engine.was_step_applied())

    def mean(self, values: Tensor) -> Tensor:
        """See step.Engine."""
        dist.all_reduce(values)
        return values / dist.get_world_size()

    def save(self, folder: Path) -> None:
        """Write this process's part of the weights and the optimizer's state below `folder`. Every process calls it."""
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, all parts of it together in `folder`."""
        loaded, _ = self._engine.load_checkpoint(str(folder), tag="state")
        if loaded is None:
            raise FileNotFoundError(f"no DeepSpeed checkpoint in {folder}")
