"""DeepSpeed, which no other file imports. Its settings are derived from ours in `deepspeed_config.py`.

Mixed precision is torch's autocast inside the model. DeepSpeed's own would cast weights and images: to bfloat16's eight
bits, as deep as the images are, while averages, checkpoints and position bias want the weights in float32.
"""

import contextlib
import io
import logging
import os
import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kgt.errors import UserError
from training.config import RunConfig
from training.deepspeed_config import deepspeed_config

# A job without GPUs is shown none (see fit.py).
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def _absent(package: str) -> Iterator[None]:
    """Let what is imported meanwhile find no such package; where it is loaded already, nothing is gained or changed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]


with _absent("mlflow"):  # its autotuner, which nothing here runs, would load it: a fifth of what a worker imports
    import deepspeed
    import deepspeed.ops
    from deepspeed.checkpoint import ds_to_universal

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its warnings: of skipped steps (worker.py says so, too)
warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated", category=FutureWarning)
if os.environ["DS_ACCELERATOR"] == "cpu":
    # Else a first start compiles a C++ helper (35 s, needs a compiler) that only inference's all-reduce would use.
    deepspeed.ops.__compatible_ops__ = {}

TAG = "state"
"""The folder of the engine's part of a checkpoint."""


_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
_LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LossScale:
    """What float16 gradients are scaled by so as not to vanish (Micikevicius et al. 2018).

    Halved at an overflow, doubled after `PATIENCE` steps without one.
    """

    PATIENCE = 2000

    def __init__(self) -> None:
        self.value = 65536.0
        self.steps = 0

    def update(self, applied: bool) -> None:
        """After a step. applied: no gradient overflowed."""
        self.steps = self.steps + 1 if applied else 0
        if not applied:
            self.value = max(1.0, self.value / 2)
        elif self.steps % self.PATIENCE == 0:
            self.value *= 2


class DeepSpeedEngine:
    """`step.Engine` on many processes. The process group is there already (Ray Train makes it)."""

    def __init__(self, model: nn.Module, config: RunConfig, *, universal: bool = False) -> None:
        """universal: it will load a checkpoint that `make_universal` has treated.

        Raises UserError where the device does not compute in `config.precision`.
        """
        device = next(model.parameters()).device
        if config.precision in _LOW_PRECISION:
            if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
                raise UserError("precision=bf16: this GPU does not compute in bfloat16: use precision=fp16 or fp32")
            model.forward = torch.autocast(device.type, _LOW_PRECISION[config.precision])(model.forward)
        self._scale = LossScale() if config.precision == "fp16" else None
        optimizer = _OPTIMIZERS[config.optimizer](
            model.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self._zero = config.zero
        settings = deepspeed_config(config) | {"checkpoint": {"load_universal": universal}}
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, dist_init_required=False, config=settings
        )
        if self._zero:
            # In fp32 DeepSpeed would step on NaN gradients; with this it skips them, as it does in fp16.
            self._engine.optimizer.check_grad_overflow = True
        self.model: nn.Module = self._engine.module

    def forward(self, degraded: Tensor, k: int) -> Tensor:
        """See step.Engine."""
        return self._engine(degraded, k)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See step.Engine. Averages the gradients over the processes, too."""
        if self._scale and self._zero:
            self._engine.optimizer.override_loss_scale(self._scale.value)
        elif self._scale:
            loss = loss * self._scale.value
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def update(self, rate: float) -> bool:
        """See step.Engine."""
        applied = self._update(rate)
        if self._scale:
            self._scale.update(applied)
        return applied

    def _update(self, rate: float) -> bool:
        if not self._zero:
            gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
            if self._scale:
                torch._foreach_mul_(gradients, 1 / self._scale.value)
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

    def weights(self) -> dict[str, Tensor]:
        """What this process holds of the weights, by name: under ZeRO 3 a flat part of each, else all. Not copies."""
        if self._zero < 3:
            return self.model.state_dict(keep_vars=True)
        return {name: weight.ds_tensor for name, weight in self.model.named_parameters()}

    def whole(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors like the weights, put together from what each process holds of them. Every process calls it."""
        if self._zero < 3:
            return parts
        whole = {}
        for name, weight in self.model.named_parameters():
            mine = parts[name].to(weight.device)
            pieces = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
            dist.all_gather(pieces, mine)
            whole[name] = torch.cat(pieces)[: weight.ds_numel].view(weight.ds_shape)
        return whole

    def part(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this process holds of tensors like the weights: the inverse of `whole`."""
        if self._zero < 3:
            return whole
        parts, rank = {}, dist.get_rank()
        for name, weight in self.model.named_parameters():
            size = weight.ds_tensor.numel()
            flat = whole[name].flatten()
            padded = F.pad(flat, (0, size * dist.get_world_size() - flat.numel()))
            parts[name] = padded[rank * size : (rank + 1) * size]
        return parts

    def save(self, folder: Path) -> None:
        """Write this process's part of the weights and the optimizer's state below `folder`. Every process calls it."""
        scale = vars(self._scale) if self._scale else None
        self._engine.save_checkpoint(str(folder), tag=TAG, client_state={"loss_scale": scale}, save_latest=False)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, all parts of it together in `folder`."""
        loaded, state = self._engine.load_checkpoint(str(folder), tag=TAG)
        if loaded is None:
            raise FileNotFoundError(f"no DeepSpeed checkpoint in {folder}")
        if self._scale:
            vars(self._scale).update(state["loss_scale"])


def make_universal(folder: Path) -> None:
    """Turn what all processes saved, together in `folder`, into what any number of them loads.

    ZeRO's parts are of one number of processes. Made whole they are a universal checkpoint (arXiv 2406.18820).
    """
    parts = folder / f"{TAG}-parts"
    (folder / TAG).rename(parts)
    asked = Namespace(
        input_folder=str(parts),
        output_folder=str(folder / TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # what Megatron alone would have put there
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(asked)
    shutil.rmtree(parts)
