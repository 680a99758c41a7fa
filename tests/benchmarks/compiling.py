"""Compiling what is compared: whole and for exact shapes, never falling back to uncompiled code unnoticed."""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo import config
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

COMPILER_ERRORS = (TorchDynamoException, FailOnRecompileLimitHit)
"""Of the tracer and of its backends."""


def compiled(call: Callable[..., Any], *, whole: bool = True) -> Callable[..., Any]:
    """For each shape anew. whole: one of `COMPILER_ERRORS`, at the first call, where it would have to be cut."""
    return torch.compile(call, fullgraph=whole, dynamic=False)


def forbid_falling_back() -> None:
    """Let the compiler keep as many versions of a function as are compared at once; one more is an error.

    By default it keeps eight, all models and layers that share a `forward` together, and runs the ninth uncompiled.
    """
    config.recompile_limit = config.accumulated_recompile_limit = 4096
    config.fail_on_recompile_limit_hit = True


def in_words(error: Exception) -> str:
    """One line."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:200]}"
