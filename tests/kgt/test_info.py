import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from kgt.attention import forced
from kgt.config import TOPK_NODES, KGTConfig, preset
from kgt.info import cost
from kgt.model import KGT

# Heads of whole vectors, as what others are padded with is not counted.
SMALL = {
    "u": KGTConfig("u", 16, (1, 2, 1), (1, 2, 4), refinement=1, window=8, similarity="dot"),
    "u without refinement": KGTConfig("u", 16, (1, 1), (1, 2), window=16, similarity="dot"),
    "x2": KGTConfig("columnar", 96, (2, 1), (2, 3), window=8, similarity="dot", scale=2, baseline="bicubic"),
    "x3": KGTConfig("columnar", 32, (1,), (2,), window=8, similarity="dot", scale=3, baseline="bicubic"),
}


@register_flop_formula(torch.ops.kgt.select_neighbours)
def similarities(vectors: torch.Size, *_: object, **__: object) -> int:
    windows, nodes, channels = vectors
    return 2 * windows * nodes * nodes * channels


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(32, 24), (12, 20), (4, 40)])
def test_multiply_adds_are_those_that_torch_counts(name: str, size: tuple[int, int]) -> None:
    config = SMALL[name]
    # At k = N dense attention computes no score in vain; the baseline is not counted.
    with torch.no_grad(), forced("dense"), FlopCounterMode(display=False) as counter:
        KGT(config).network(torch.rand(1, 3, *size), TOPK_NODES)
    assert 2 * cost(config, size, TOPK_NODES).macs == counter.get_total_flops()


def test_fewer_neighbours_cost_less_and_odd_sizes_as_much_as_padded_ones() -> None:
    config = preset("kgt-tiny", "denoise")
    few, many = (cost(config, (64, 64), k).macs for k in (64, 512))
    kept = (512 - 64) / 1024
    scores = 2 * 64 * 64 * 256 * (16 + 32) + 2 * 32 * 32 * 256 * 32
    assert many - few == kept * scores
    assert cost(config, (63, 63)).macs == cost(config, (64, 64)).macs


class Alive(TorchDispatchMode):
    """Adds up the storages that exist at once, as operations make and the interpreter frees them."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {_storage(tensor)._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and _storage(tensor)._cdata not in self.storages.keys() | given:
                storage = _storage(tensor)
                self.storages[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.storages.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.storages.values()))
        return result


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


@pytest.mark.parametrize(
    ("task", "scale", "attention"), [("denoise", 1, "sparse"), ("denoise", 1, "dense"), ("sr", 4, "sparse")]
)
def test_memory_is_what_the_tensors_take(task: str, scale: int, attention: str) -> None:
    config = preset("kgt-tiny", task, scale)
    model, x = KGT(config), torch.rand(1, 3, 128, 96)
    with forced(attention), torch.no_grad(), Alive() as alive:
        model(x, 256)
    with forced(attention):
        expected = cost(config, (128, 96), 256)
    assert expected.attention.name == attention
    assert alive.peak == pytest.approx(expected.memory - 4 * expected.parameters, rel=0.15)
