"""Where a loss or a gradient that is not finite comes from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


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
