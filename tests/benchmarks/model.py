"""Whole models: kgt-s (super-resolution ×4) and kgt-u (denoising) beside public restorers of kgt-s's size.

    python tests/benchmarks/model.py --json model.json
    python tests/benchmarks/model.py --models kgt-s --sizes 64 128 --passes inference --modes eager

A row is a model at one k on one square input, eager or compiled, in inference or in one of the project's training
steps (ours also with checkpointed activations), alone in its batch. Rows of an input and a pass are timed in turns.
`× k=…` is the row's time over that of ours at that k, in the same mode. A compiled model is compiled whole; `notes` say
where one could not be, and why a row is empty. A second table says what an eager model's time is spent on. Weights are
untrained; inputs are crops of a photograph. The JSON is written after every input.
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
from tests.benchmarks.compiling import COMPILER_ERRORS, compiled, forbid_falling_back, in_words
from tests.benchmarks.harness import arguments, device_arguments, device_of, print_table, report, start, store
from tests.benchmarks.restorers import restorers
from tests.benchmarks.spending import spending
from tests.benchmarks.trials import trials
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
    device_arguments(parser, "float32", "bfloat16", of="of autocast")
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=["kgt-s", "kgt-u"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="sides of the inputs, in pixels")
    parser.add_argument("--k", type=int, nargs="+", default=[64, 128, 512], help="neighbours a node of 1024")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--runs", type=int, default=5, help="calls timed of each")
    parser.add_argument("--alone", action="store_true", help="without peers")
    given = parser.parse_args()
    device, dtype = device_of(given)
    forbid_falling_back()
    rows: list[dict[str, Any]] = []
    spent: list[dict[str, Any]] = []
    more = {"threads": given.threads, "dtype": given.dtype, "spent": spent}
    title = f"models, {given.device}, {given.dtype}, {given.threads} threads"
    how: dict[str, Any] = {"path": given.json, "packages": ("torch", "numba", "numpy"), "more": more}
    how["device"] = given.device
    for name in given.models:
        task = "denoise" if name == "kgt-u" else "sr"
        scale = 4 if task == "sr" else 1
        bare: dict[str, nn.Module] = {name: KGT(preset(name, task, scale))}
        bare |= restorers() if name == "kgt-s" and not given.alone else {}
        models = {key: Autocast(model.to(device), dtype) for key, model in bare.items()}
        for size in given.sizes:
            degraded, clean = _pair(size, scale, device)
            for which in given.passes:
                torch.compiler.reset()  # frees what is compiled for other inputs
                about = {"input": f"{size}×{size}", "pass": which}
                calls = {
                    (key, k, mode): noted_call(which, model, mode, degraded, clean, k)
                    for key, model in models.items()
                    for k in (given.k if key == name else given.k[:1])
                    for mode in given.modes
                    if mode != "checkpointed" or (key == name and which == "training step")
                }
                measured = _rows(about, name, models, calls, given)
                rows += measured
                for row in measured:
                    if (row["model"], row["mode"]) == (name, "eager") and row["time"]:
                        shares = spending(calls[name, row["k"], "eager"][0], device)
                        spent.append({"model": name, "k": row["k"], **about, **shares})
            store(title, rows, **how)
    print_table("what an eager model's time is spent on, in shares", spent)
    report(title, rows, **how)


def _rows(
    about: Mapping[str, Any],
    ours: str,
    models: Mapping[str, nn.Module],
    calls: Mapping[tuple[str, int, str], tuple[Callable[[], object], str]],
    given: Any,
) -> list[dict[str, Any]]:
    """A row for each of the calls, which are named by model, k and mode, and come with a note."""
    bare = {name: call for name, (call, _) in calls.items()}
    tried = trials(bare, given.device, runs=given.runs, patience=_PATIENCE)
    rows = []
    for (key, k, mode), trial in tried.items():
        millions = sum(weight.numel() for weight in models[key].parameters()) / 1e6
        row = {"model": key, "params, M": millions, "k": k if key == ours else None, **about, "mode": mode}
        row |= {"time": trial.seconds, "MiB": None if trial.memory is None else trial.memory / 2**20}
        for other in given.k:
            base = tried[ours, other, mode].seconds
            row[f"× k={other}"] = trial.seconds.median / base.median if trial.seconds and base else None
        failed = f"failed: {trial.failure}" if trial.failure else ""
        rows.append(row | {"notes": "; ".join(filter(None, (calls[key, k, mode][1], failed)))})
    return rows


def noted_call(
    which: str, model: Autocast, mode: str, degraded: Tensor, clean: Tensor, k: int
) -> tuple[Callable[[], object], str]:
    """The call, and a note where a model is compiled in pieces because it cannot be compiled whole."""
    if mode != "compiled":
        return _call(which, model, model, mode == "checkpointed", degraded, clean, k), ""
    call = _call(which, model, compiled(model), False, degraded, clean, k)
    try:
        call()
    except torch.OutOfMemoryError:
        pass  # as it will when it is timed, where that is noted
    except COMPILER_ERRORS as error:
        pieces = compiled(model, whole=False)
        return _call(which, model, pieces, False, degraded, clean, k), f"in pieces: {in_words(error)}"
    return call, ""


def _call(
    which: str,
    model: Autocast,
    run: Callable[[Tensor, int], Tensor],
    checkpointed: bool,
    degraded: Tensor,
    clean: Tensor,
    k: int,
) -> Callable[[], object]:
    """`run` is the model or its compiled form."""
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
            model.restorer.checkpoint_activations(checkpointed)
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
