"""What a training run is made of: one flat dataclass, filled from the task's recipe and then from the command line.

A recipe (`recipes/<task>.yaml`) is nothing but `key=value` settings that come before the user's own.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from kgt.config import PRESETS, TOPK_NODES, preset
from kgt.errors import UserError
from kgt.home import home
from pipelines.options import about, expand_tasks, parse

RECIPES = Path(__file__).parent / "recipes"

REDRAWABLE = ("denoise",)
"""Tasks whose degradation can be drawn anew from a clean patch: of each pixel alone, and cheap."""


@dataclass
class RunConfig:
    """One task's training. `EXECUTION` names the settings that say how it runs; all others say what comes out."""

    task: Any = field(default="all", metadata=about("one task, a list as [sr,denoise], or all"))
    store: str = field(
        default="", metadata=about("file:///folder or s3://bucket/prefix of the shards; empty: $KGT_HOME/shards")
    )
    version: str = field(default="", metadata=about("which version of the shards; empty: the newest"))
    model: str = field(default="kgt-tiny", metadata=about(f"preset: {', '.join(PRESETS)}"))
    steps: int = field(default=2000, metadata=about("optimisation steps"))
    batch_size: int = field(default=8, metadata=about("pairs of one step, over all workers"))
    patch: int = field(default=64, metadata=about("side of the degraded patches, in pixels"))
    topk: str = field(
        default="random", metadata=about("neighbours a node of 1024: random (drawn every step), or a number")
    )
    loss: Literal["l1", "charbonnier"] = field(default="charbonnier", metadata=about("l1 or charbonnier"))
    lr: float = field(default=5e-4, metadata=about("highest learning rate"))
    warmup: int = field(default=100, metadata=about("steps until the highest learning rate"))
    weight_decay: float = field(default=1e-4, metadata=about("of AdamW"))
    clip: float = field(default=1.0, metadata=about("largest norm of the gradient; 0: not clipped"))
    ema: float = field(default=0.999, metadata=about("decay of the averaged weights, which are what is saved"))
    redraw: bool = field(
        default=False, metadata=about(f"degrade afresh every time instead of reading it ({', '.join(REDRAWABLE)} only)")
    )
    shuffle: int = field(default=512, metadata=about("pairs held back for shuffling"))
    streams: int = field(
        default=0, metadata=about("virtual streams that the shards are dealt to; 0: chosen from the number of shards")
    )
    seed: int = field(default=0, metadata=about("of the weights, the order, the augmentation and the k drawn"))
    zero: int = field(default=0, metadata=about("DeepSpeed ZeRO stage: 0, 1 or 2"))
    max_skipped: int = field(
        default=10, metadata=about("steps in a row whose loss or gradient may be NaN before the run fails")
    )
    validation_pairs: int = field(
        default=64, metadata=about("most pairs of the val split that the final validation looks at")
    )

    workers: int = field(default=2, metadata=about("training processes of a task"))
    cpus_per_worker: int = field(default=1, metadata=about("cores of each"))
    gpus_per_worker: int = field(default=0, metadata=about("GPUs of each: 0 or 1"))
    checkpoint_every: int = field(default=500, metadata=about("steps between checkpoints"))
    keep: int = field(default=2, metadata=about("checkpoints kept"))
    max_failures: int = field(default=3, metadata=about("how often the lost workers of a task are replaced"))
    log_every: int = field(default=1, metadata=about("steps between logged metrics"))
    name: str = field(default="", metadata=about("the run's name; empty: made from its settings"))
    out: str = field(default="", metadata=about("folder (or s3://…) of the run; empty: $KGT_HOME/runs/<name>"))

    def identity(self) -> dict[str, Any]:
        """The settings that say what comes out, for one task."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in EXECUTION}


EXECUTION = frozenset(
    (
        "workers",
        "cpus_per_worker",
        "gpus_per_worker",
        "checkpoint_every",
        "keep",
        "max_failures",
        "log_every",
        "name",
        "out",
    )
)

_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "patch": 8,
    "warmup": 0,
    "weight_decay": 0,
    "clip": 0,
    "shuffle": 1,
    "streams": 0,
    "max_skipped": 1,
    "validation_pairs": 1,
    "workers": 1,
    "cpus_per_worker": 1,
    "checkpoint_every": 1,
    "keep": 1,
    "max_failures": 0,
    "log_every": 1,
}


def read_configs(argv: Sequence[str], usage: str) -> list[RunConfig]:
    """The configuration of every task that the command line asks for; the name and `out` are filled in.

    Raises UserError, naming the nearest right setting, task or preset.
    """
    asked = parse(RunConfig, argv, usage)
    configs = [parse(RunConfig, [*_recipe(task), *argv, f"task={task}"], usage) for task in expand_tasks(asked.task)]
    for config in configs:
        _check(config)
    name = asked.name or f"{asked.model}-{_digest(configs)}"
    out = asked.out or f"{home() / 'runs' / name}"
    if "://" not in out:
        out = f"file://{Path(out).expanduser().absolute()}"
    return [dataclasses.replace(config, name=name, out=out) for config in configs]


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    """What DeepSpeed is told: derived here and nowhere else, and logged with the run."""
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // config.workers,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip,
        # Buckets for models of our size: the defaults would set 2 GB aside for each.
        "zero_optimization": {
            "stage": config.zero,
            "reduce_bucket_size": 20_000_000,
            "allgather_bucket_size": 20_000_000,
        },
        "zero_allow_untested_optimizer": True,  # the optimizer is ours: torch's AdamW
        "steps_per_print": None,
    }


def _recipe(task: str) -> list[str]:
    values = yaml.safe_load((RECIPES / f"{task}.yaml").read_text())
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]


def _digest(configs: Sequence[RunConfig]) -> str:
    """Eight characters that stand for what comes out of the run."""
    text = json.dumps([config.identity() for config in configs], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _check(config: RunConfig) -> None:
    preset(config.model, config.task, 2 if config.task == "sr" else 1)
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise UserError(f"{name}={getattr(config, name)}: {least} is the least")
    if config.topk != "random" and not (config.topk.isdecimal() and 1 <= int(config.topk) <= TOPK_NODES):
        raise UserError(f"topk={config.topk}: write topk=random, or a number of 1 to {TOPK_NODES}")
    if not config.lr > 0:
        raise UserError(f"lr={config.lr}: a number above 0 is wanted")
    if not 0 <= config.ema < 1:
        raise UserError(f"ema={config.ema}: a number of 0 to below 1 is wanted")
    if config.zero not in (0, 1, 2):
        raise UserError(f"zero={config.zero}: stages 0, 1 and 2 are there")
    if config.gpus_per_worker not in (0, 1):
        raise UserError(f"gpus_per_worker={config.gpus_per_worker}: a worker drives one GPU; use more workers")
    if config.batch_size % config.workers:
        fitting = [count for count in range(1, config.batch_size + 1) if config.batch_size % count == 0]
        raise UserError(
            f"batch_size={config.batch_size} cannot be shared evenly by {config.workers} workers: "
            f"use workers of {', '.join(map(str, fitting))}, or a multiple of {config.workers} as batch_size"
        )
    if config.task == "demosaic" and config.patch % 2:
        raise UserError(f"patch={config.patch}: demosaicking needs an even patch, for whole cells of the mosaic")
    if config.redraw and config.task not in REDRAWABLE:
        raise UserError(
            f"redraw=true is for {', '.join(REDRAWABLE)}: what degrades {config.task} needs the whole photograph"
        )
