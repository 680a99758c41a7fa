"""What kinds of work a call spends its time on, by PyTorch's profiler."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_KINDS = {
    "attention, graph": ("kgt::", "aten::bmm", "aten::baddbmm", "aten::_softmax"),
    "linear": ("aten::addmm", "aten::mm", "aten::linear", "mkl::_mkl_linear", "mkldnn::_linear"),
    "convolution": ("aten::mkldnn_convolution", "aten::convolution", "aten::cudnn_convolution", "aten::_convolution"),
    "copies": ("aten::copy_", "aten::cat", "aten::roll", "aten::fill_", "aten::zero_", "aten::constant_pad_nd"),
    "optimizer": ("aten::_foreach", "aten::_fused_adam", "Optimizer."),
    "norm, activation, pointwise": ("aten::",),
}
"""Kinds by the beginnings of their operators' names; the first that fits counts."""


def spending(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """The share of each kind in one call, after a warm-up; the rest is `other`: Python and autograd's own work.

    An operator's time is its own, without those that it calls; on a GPU that of the kernels it launches.
    Products of batches of matrices are the graph's similarities and dense attention.
    """
    call()
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        call()
        if gpu:
            torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:
            continue  # a kernel, whose time is listed with its operator's too
        kind = next((kind for kind, names in _KINDS.items() if event.key.startswith(names)), "other")
        spent[kind] += event.self_device_time_total if gpu else event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: spent[kind] / total for kind in (*_KINDS, "other")}
