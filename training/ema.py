"""An exponential moving average of the weights: what is validated, saved and registered."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """shadow ← d · shadow + (1 − d) · weights, with d = min(decay, (1 + n) / (10 + n)) after n updates.

    The growing d is TensorFlow's: it forgets the initial weights quickly, which short runs need. Buffers are copied.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """weights: those of a model, or one process's part of them, by name; they change in place from step to step.

        decay: in [0, 1); 0 follows the weights.
        """
        self.decay = decay
        self.updates = 0
        self._weights = weights
        self.shadow: dict[str, Tensor] = {name: value.detach().clone() for name, value in weights.items()}
        self._averaged = [name for name, value in self.shadow.items() if value.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        shadow, weights = ([values[name] for name in self._averaged] for values in (self.shadow, self._weights))
        torch._foreach_lerp_(shadow, weights, 1 - decay)
        for name in self.shadow.keys() - set(self._averaged):
            self.shadow[name].copy_(self._weights[name])

    def load(self, shadow: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average. Raises KeyError where it is another model's."""
        for name, value in self.shadow.items():
            value.copy_(shadow[name])
        self.updates = updates
