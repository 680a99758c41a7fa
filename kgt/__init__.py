"""Key-Graph Transformer for image restoration (arXiv 2402.02634).

The parts that need torch load when they are first used, so `kgt.tasks` and `kgt.imaging` work without it.
"""

import importlib
from typing import Any

_LAZY = {
    "KGT": "kgt.model",
    "KGTConfig": "kgt.config",
    "preset": "kgt.config",
    "load_weights": "kgt.weights",
    "save_weights": "kgt.weights",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kgt' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)
