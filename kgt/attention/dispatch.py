"""Chooses the attention implementation, and says why."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from kgt import kernels
from kgt.errors import UserError
from kgt.tasks import nearest
from kgt.tiles import expected_overlap, worth_gathering

Name = Literal["dense", "gather", "sparse", "triton"]

_TRITON_WIDTH = 64
"""Channels of the widest head that the Triton kernels are built for: wider ones would not stay in registers."""

_forced: ContextVar[Name | None] = ContextVar("forced", default=None)


@dataclass(frozen=True)
class Choice:
    """The implementation taken and the reason, in words."""

    name: Name
    reason: str


@contextlib.contextmanager
def forced(name: Name) -> Iterator[None]:
    """Within this block (and this thread) every attention uses the implementation `name`.

    What `torch.compile` or `torch.export` traces keeps what was forced at that time.
    """
    if name not in get_args(Name):
        raise UserError(f"unknown attention '{name}': {nearest(name, get_args(Name))}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@torch.compiler.assume_constant_result
def _forced_name() -> Name | None:
    return _forced.get()


def implementation(device: torch.device | str, dtype: torch.dtype, width: int) -> Name:
    """The implementation for heads of `width` channels.

    Of what runs on a device one is the fastest for all windows and k (tests/benchmarks/attention.py). How 'triton'
    walks a graph hangs on both: see `kgt.tiles.worth_gathering`.

    Raises UserError where a forced one cannot run.
    """
    kind = torch.device(device).type
    name = _forced_name()
    if name == "sparse" and kind != "cpu":
        raise UserError(f"attention 'sparse' runs on the CPU alone, not on {kind}: force 'dense' or none")
    if name == "sparse" and dtype == torch.float64:
        raise UserError("attention 'sparse' computes in float32: force 'dense' for float64")
    obstacle = _obstacle_to_triton(device, dtype, width) if name == "triton" or kind != "cpu" else None
    if name == "triton" and obstacle:
        raise UserError(f"attention 'triton' cannot run here: {obstacle}; force another or none")
    if name:
        return name
    if dtype == torch.float64 or obstacle:
        return "dense"
    return "sparse" if kind == "cpu" else "triton"


def choose(device: torch.device | str, dtype: torch.dtype, nodes: int, k: int, width: int) -> Choice:
    """What `implementation` takes for windows of `nodes` nodes that keep `k` neighbours each, and why."""
    name = implementation(device, dtype, width)
    return Choice(name, _reason(name, device, dtype, nodes, min(k, nodes), width))


def _reason(name: Name, device: torch.device | str, dtype: torch.dtype, nodes: int, k: int, width: int) -> str:
    if _forced_name():
        return "forced"
    if name == "triton":
        walk = f"tiles gather about {expected_overlap(nodes, k):.0%}" if worth_gathering(nodes, k) else "tiles walk all"
        return f"{walk} of {nodes} nodes, masked to {k}"
    if name == "sparse":
        return f"visits {k} of {nodes} nodes on the CPU"
    if dtype == torch.float64:
        return "float64 asks for the reference"
    return f"'triton' cannot run: {_obstacle_to_triton(device, dtype, width)}"


def _obstacle_to_triton(device: torch.device | str, dtype: torch.dtype, width: int) -> str | None:
    """Why the Triton kernels cannot run, in words; None where they can."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"its kernels do not compute in {dtype}"
    if width > _TRITON_WIDTH:
        return f"its kernels are for heads of up to {_TRITON_WIDTH} channels, not {width}"
    return kernels.obstacle(device)
