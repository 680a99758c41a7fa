"""What the first worker's machine is doing, under MLflow's names for it."""

import psutil
import torch

_MIB = 2**20


class SystemMonitor:
    """Of the machine of the process that owns it, and of that process's GPU."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # percentages are since the last call
        self._process = psutil.Process()
        self._gpu = torch.cuda.is_available()
        self._tells_utilization = self._gpu and _tells_utilization()

    def memory(self) -> float:
        """MiB: the most that tensors took on the GPU since the last call; without one, what the process holds now."""
        if not self._gpu:
            return self._process.memory_info().rss / _MIB
        most = torch.cuda.max_memory_allocated() / _MIB
        torch.cuda.reset_peak_memory_stats()
        return most

    def utilization(self) -> dict[str, float]:
        """Since the last call. That of a GPU only where NVIDIA's library (`nvidia-ml-py`) is installed and tells it."""
        memory = psutil.virtual_memory()
        figures = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / _MIB,
            "system/system_memory_usage_percentage": memory.percent,
        }
        if self._gpu:
            free, total = torch.cuda.mem_get_info()
            figures["system/gpu_memory_usage_percentage"] = 100 * (1 - free / total)
        if self._tells_utilization:
            figures["system/gpu_utilization_percentage"] = torch.cuda.utilization()
        return figures


def _tells_utilization() -> bool:
    """Not without NVIDIA's library; nor for a part of a GPU, or with a driver that it does not know."""
    try:
        torch.cuda.utilization()
    except Exception:  # noqa: BLE001 - the library's own kinds, which cannot be named where it is missing
        return False
    return True
