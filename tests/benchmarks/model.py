"""Whole models: kgt-s (super-resolution ×4) and kgt-u (denoising) beside public restorers of kgt-s's size.

    python tests/benchmarks/model.py --json model.json
    python tests/benchmarks/model.py --models kgt-s --sizes 64 128 --passes inference --modes eager

A row is a model at one k on one square input, eager or compiled, in inference or in one of the project's training
steps (ours also with checkpointed activations), alone in its batch. Rows of an input and a pass are timed in turns.
`× k=…` is the row's time over that of ours at that k, in the same mode. A second table says what an eager model's time
is spent on. Weights are untrained; inputs are crops of a photograph.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read when torch loads; else its profiler reports starts and stops
import torch
from torch import Tensor, nn

from kgt.config import PRESETS, preset
from kgt.errors import UserError
from kgt.imaging import read_image, to_rgb
from kgt.model import KGT
from pipelines.sample import sample_photographs
from tests.benchmarks.harness import Timing, arguments, finish_of, interleave, print_table, report, start
from tests.benchmarks.memory import peak_memory
from tests.benchmarks.restorers import restorers
from tests.benchmarks.spending import spending
from training.augment import planes
from training.losses import charbonnier
from training.step import TorchEngine, train_step

PASSES, MODES = ("inference", "training step"), ("eager", "checkpointed", "compiled")

_PATIENCE = 5.0
"""Seconds of a call beyond which it is timed once."""


class Autocast(nn.Module):
    """A restorer in mixed precision; returns float32."""

    def __init__(self, restorer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.restorer, self.dtype = restorer, dtype

    def forward(self, x: Tensor, k: int) -> Tensor:
        """As the restorer."""
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.restorer(x, k).float()


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of autocast")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and of the kernels")
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=["kgt-s", "kgt-u"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="sides of the inputs, in pixels")
    parser.add_argument("--k", type=int, nargs="+", default=[64, 128, 512], help="neighbours a node of 1024")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--runs", type=int, default=5, help="calls timed of each")
    parser.add_argument("--alone", action="store_true", help="without peers")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device here; take --device cpu")
    torch.set_num_threads(given.threads)
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    rows: list[dict[str, Any]] = []
    spent: list[dict[str, Any]] = []
    for name in given.models:
        task = "denoise" if name == "kgt-u" else "sr"
        scale = 4 if task == "sr" else 1
        bare: dict[str, nn.Module] = {name: KGT(preset(name, task, scale))}
        bare |= restorers() if name == "kgt-s" and not given.alone else {}
        models = {key: Autocast(model.to(device), dtype) for key, model in bare.items()}
        for size in given.sizes:
            degraded, clean = _pair(size, scale, device)
            for which in given.passes:
                torch.compiler.reset()  # else it would make one code for all sizes, and keep only so many
                about = {"input": f"{size}×{size}", "pass": which}
                calls = {
                    (key, k, mode): _call(which, model, mode, degraded, clean, k)
                    for key, model in models.items()
                    for k in (given.k if key == name else given.k[:1])
                    for mode in given.modes
                    if mode != "checkpointed" or (key == name and which == "training step")
                }
                rows += _rows(about, name, models, calls, given)
                for k in given.k if "eager" in given.modes else ():
                    shares = spending(calls[name, k, "eager"], device)
                    spent.append({"model": name, "k": k, **about, **shares})
    print_table("what an eager model's time is spent on, in shares", spent)
    more = {"threads": given.threads, "dtype": given.dtype, "spent": spent}
    title = f"models, {given.device}, {given.dtype}, {given.threads} threads"
    report(title, rows, path=given.json, packages=("torch", "numba", "numpy"), more=more)


def _rows(
    about: Mapping[str, Any],
    ours: str,
    models: Mapping[str, nn.Module],
    calls: Mapping[tuple[str, int, str], Callable[[], object]],
    given: Any,
) -> list[dict[str, Any]]:
    """A row for each of the calls, which are named by model, k and mode."""
    taken: dict[tuple[str, int, str], Timing] = interleave(
        calls, runs=given.runs, patience=_PATIENCE, finish=finish_of(given.device)
    )
    rows = []
    for (key, k, mode), seconds in taken.items():
        millions = sum(weight.numel() for weight in models[key].parameters()) / 1e6
        row = {"model": key, "params, M": millions, "k": k if key == ours else None, **about, "mode": mode}
        row |= {"time": seconds, "MiB": peak_memory(calls[key, k, mode], given.device) / 2**20}
        row |= {f"× k={other}": seconds.median / taken[ours, other, mode].median for other in given.k}
        rows.append(row)
    return rows


def _call(which: str, model: Autocast, mode: str, degraded: Tensor, clean: Tensor, k: int) -> Callable[[], object]:
    run = torch.compile(model) if mode == "compiled" else model
    if which == "inference":

        def infer() -> None:
            model.eval()
            with torch.inference_mode():
                run(degraded, k)

        return infer
    engine = TorchEngine(run, torch.optim.AdamW(model.parameters()), clip=1.0)

    def step() -> None:
        model.train()
        if isinstance(model.restorer, KGT):
            model.restorer.checkpoint_activations(mode == "checkpointed")
        train_step(engine, degraded, clean, k=k, rate=1e-6, loss=charbonnier)

    return step


def _pair(size: int, scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 3, size, size) of a photograph, and as many random targets as the model restores pixels."""
    image = to_rgb(read_image(sample_photographs("val")[0]))
    if size > min(image.shape[:2]):
        raise UserError(f"--sizes {size}: the photograph has {min(image.shape[:2])} pixels a side")
    degraded = torch.from_numpy(planes(image[:size, :size], 3))[None].to(device)
    return degraded, torch.rand(1, 3, scale * size, scale * size, device=device)


if __name__ == "__main__":
    start(main)
