"""Triton kernels, and where they can run. Importing a module of this package needs triton; this one does not."""

import importlib.util
import os

import torch

_INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@torch.compiler.assume_constant_result
def obstacle(device: torch.device | str) -> str | None:
    """Why Triton kernels cannot run on a device, in words; None where they can.

    They need a CUDA device with bfloat16 and TF32 (compute capability 8.0), or Triton's interpreter, for tests.
    """
    device = torch.device(device)
    if not _INSTALLED:
        return "Triton is not installed"
    if device.type == "cpu" and _INTERPRETED:
        return None
    if device.type != "cuda":
        return f"Triton does not run on {device.type}"
    if torch.version.hip:
        return "its kernels are for NVIDIA GPUs"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
        return "its kernels need a GPU of compute capability 8.0 or more"
    return None
