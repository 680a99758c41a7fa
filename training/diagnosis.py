"""Where a loss or a gradient that is not finite comes from."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from training.data import Batch
    from training.engine import DeepSpeedEngine


def diagnosis(engine: "DeepSpeedEngine", batch: "Batch", k: int) -> str:
    """What is wrong, on whichever rank, and what may help. Every rank calls it."""
    if cause := _first(spoilt("images", {"degraded": batch.degraded, "clean": batch.clean})):
        return f"{cause}; `python pipelines/datasets.py verify` checks the shards"
    cause = (
        _first(spoilt("weights", engine.weights()))
        # Not before all ranks are here: under ZeRO 3 they need one another to compute.
        or _first(spoilt_module(engine.model, lambda: engine.forward(batch.degraded, k)))
        or "images, weights and activations are finite, but the gradient is not"
    )
    return f"{cause}; a new run (another out=) with a lower lr= or clip=, or precision=fp32, may help"


def spoilt(kind: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Which of the tensors are not finite, in words that call them `kind`; None where all are."""
    names = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if not names:
        return None
    return f"the {kind} are not finite: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def spoilt_module(model: nn.Module, forward: Callable[[], Tensor]) -> str | None:
    """The first module to return what is not finite, in words; None where none does. forward: runs the model."""
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if not found and isinstance(output, Tensor) and not output.isfinite().all():
            found.append(names[module] or "the model")

    handles = [module.register_forward_hook(look) for module in names]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return f"what {found[0]} returns is not finite" if found else None


def _first(found: str | None) -> str | None:
    """What the first rank that found something has found. Every rank calls it."""
    all_found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(all_found, found)
    return next(filter(None, all_found), None)
