"""What a training run is made of: one flat dataclass, filled from a recipe and then from the command line.

A recipe (`recipes/<recipe>.yaml`) is nothing but settings that come before the user's own: those below `all`, then
those below the task.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from kgt.config import PRESETS, TOPK_NODES, Similarity, preset
from kgt.errors import UserError
from kgt.home import home
from kgt.tasks import nearest
from pipelines.options import about, expand_tasks, parse
from training.mixture import Source, sources_of
from training.phases import Phase, phases_of, written

RECIPES = Path(__file__).parent / "recipes"

REDRAWABLE = ("denoise",)
"""Tasks whose degradation can be drawn anew from a clean patch: of each pixel alone, and cheap."""

LOSSES = ("l1", "charbonnier", "fft")
"""The terms that a loss is made of; `losses.py` says what each is."""


@dataclass
class RunConfig:
    """One task's training. `EXECUTION` names the settings that say how it runs; all others say what comes out."""

    task: Any = field(default="all", metadata=about("one task, a list as [sr,denoise], or all"))
    recipe: Literal["quick", "full"] = field(
        default="quick", metadata=about("settings to begin with: quick (one machine), or full (published scale, GPUs)")
    )
    store: str = field(
        default="",
        metadata=about("file:///folder or s3://bucket/prefix of the shards, or a list; empty: $KGT_HOME/shards"),
    )
    version: str = field(
        default="", metadata=about("which version of the shards; a list: one a store; empty: the newest")
    )
    weights: list[int] = field(
        default_factory=list, metadata=about("how often each store or version of a list is read; empty: all alike")
    )
    model: str = field(default="kgt-tiny", metadata=about(f"preset: {', '.join(PRESETS)}"))
    init: str = field(
        default="",
        metadata=about(
            "start from a weights file, also file://… or s3://…, or models:/…, as far as it fits; empty: at random"
        ),
    )
    steps: int = field(default=2000, metadata=about("optimisation steps"))
    batch_size: Any = field(default=8, metadata=about("pairs of one step, over all workers; a list: one a phase"))
    patch: Any = field(default=64, metadata=about("side of the degraded patches, in pixels; a list: one a phase"))
    patch_milestones: list[float] = field(
        default_factory=list, metadata=about("where the phases after the first begin, as fractions of the steps")
    )
    topk: str = field(
        default="random",
        metadata=about("neighbours a node of 1024: random (drawn every step), or a number, also as fixed:256"),
    )
    similarity: Similarity = field(
        default="centred", metadata=about(f"of patches, which makes neighbours: {', '.join(get_args(Similarity))}")
    )
    topk_dense: bool = field(default=False, metadata=about("random draws all 1024, too"))
    loss: str = field(
        default="charbonnier",
        metadata=about(f"{', '.join(LOSSES)}, or a weighted sum as charbonnier+0.05*fft"),
    )
    optimizer: Literal["adam", "adamw"] = field(default="adamw", metadata=about("adam or adamw"))
    lr: float = field(default=5e-4, metadata=about("highest learning rate"))
    schedule: Literal["cosine", "multistep"] = field(
        default="cosine", metadata=about("of the learning rate: cosine, or multistep (halved at lr_milestones)")
    )
    lr_milestones: list[float] = field(
        default_factory=list, metadata=about("where multistep halves the rate, as fractions of the steps")
    )
    warmup: int = field(default=100, metadata=about("steps until the highest learning rate"))
    weight_decay: float = field(default=1e-4, metadata=about("of the optimizer"))
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
    zero: int = field(default=0, metadata=about("DeepSpeed ZeRO stage: 0, 1, 2 or 3"))
    precision: Literal["fp32", "bf16", "fp16"] = field(
        default="fp32", metadata=about("fp32, or mixed (weights stay in float32): bf16, fp16")
    )
    max_skipped: int = field(
        default=10, metadata=about("steps in a row whose loss or gradient may be NaN before the run fails")
    )
    validation_pairs: int = field(
        default=64, metadata=about("most pairs of the val split that the final validation looks at")
    )

    workers: int = field(default=2, metadata=about("training processes of a task"))
    min_workers: int = field(
        default=0, metadata=about("with how few of them it also goes on while machines are missing; 0: with all")
    )
    cpus_per_worker: int = field(default=1, metadata=about("cores of each"))
    gpus_per_worker: int = field(default=0, metadata=about("GPUs of each: 0 or 1"))
    accumulate: int = field(default=1, metadata=about("micro-steps that a worker cuts its share of a batch into"))
    activation_checkpointing: bool = field(
        default=False, metadata=about("compute layers again in the backward pass instead of keeping what they made")
    )
    offload: Literal["none", "optimizer", "parameters"] = field(
        default="none",
        metadata=about("kept in main memory: the optimizer's state (zero=1 to 3), and the parameters (zero=3)"),
    )
    checkpoint_every: int = field(default=500, metadata=about("steps between checkpoints"))
    keep: int = field(default=2, metadata=about("checkpoints kept"))
    at_once: int = field(
        default=0,
        metadata=about("tasks that train side by side; 0: as many as the cluster has room for when the run starts"),
    )
    max_failures: int = field(
        default=3, metadata=about("how often the lost workers of a task are replaced before it has a newer checkpoint")
    )
    max_preemption_failures: int = field(
        default=-1, metadata=about("how often those whose machine was preempted are; -1: always")
    )
    loader_threads: int = field(default=2, metadata=about("threads of a worker that decode and augment"))
    log_every: int = field(default=1, metadata=about("steps between logged metrics"))
    validate_every: int = field(
        default=1000,
        metadata=about("steps between validations, of the weights and of their average; 0: at the end alone"),
    )
    validate_k: Any = field(
        default=64, metadata=about("neighbours that they look at beside the model's own; a list: several")
    )
    alarm_minutes: int = field(default=60, metadata=about("so long without a checkpoint is an alarm"))
    profile: str = field(
        default="", metadata=about("FIRST:LAST: a trace of these steps by torch.profiler goes to the run's folder")
    )
    name: str = field(default="", metadata=about("the run's name; empty: made from its settings"))
    out: str = field(default="", metadata=about("folder (or s3://…) of the run; empty: $KGT_HOME/runs/<name>"))

    def identity(self) -> dict[str, Any]:
        """The settings that say what comes out, for one task."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in EXECUTION}

    def computation(self) -> dict[str, Any]:
        """The settings of COMPUTATION."""
        return {name: getattr(self, name) for name in COMPUTATION}

    def sources(self) -> tuple[Source, ...]:
        """Which datasets are read. Raises UserError where their lists do not fit together."""
        return sources_of(self.store, self.version, self.weights)

    def phases(self) -> tuple[Phase, ...]:
        """Which patches and batches the steps take."""
        return phases_of(self.patch, self.batch_size, self.patch_milestones, self.steps)

    def profiled(self) -> range:
        """The steps, counted from 1, that `profile` asks for. Raises UserError where they are no steps of the run."""
        if not self.profile:
            return range(0)
        found = re.fullmatch(r"([0-9]+):([0-9]+)", self.profile, re.ASCII)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"profile={self.profile}: write FIRST:LAST, two steps from 1 on, as in profile=20:22")
        if int(found[2]) > self.steps:
            raise UserError(f"profile={self.profile}: the run's last step is steps={self.steps}: profile earlier ones")
        return range(int(found[1]), int(found[2]) + 1)

    def validated_k(self) -> list[int]:
        """What `validate_k` asks for."""
        return self.validate_k if isinstance(self.validate_k, list) else [self.validate_k]

    def worker_counts(self) -> range:
        """How many workers there may be."""
        return range(self.min_workers or self.workers, self.workers + 1)


COMPUTATION = (
    "workers",
    "min_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "accumulate",
    "activation_checkpointing",
    "offload",
)
"""The settings that decide no more than the last bits of what comes out, or on which machines it runs."""

EXECUTION = frozenset(
    (
        *COMPUTATION,
        "checkpoint_every",
        "keep",
        "at_once",
        "max_failures",
        "max_preemption_failures",
        "loader_threads",
        "log_every",
        "validate_every",
        "validate_k",
        "alarm_minutes",
        "profile",
        "name",
        "out",
    )
)
"""What a run may be given another value of when it goes on."""

_LEAST = {
    "steps": 1,
    "accumulate": 1,
    "warmup": 0,
    "weight_decay": 0,
    "clip": 0,
    "shuffle": 1,
    "streams": 0,
    "max_skipped": 1,
    "validation_pairs": 1,
    "workers": 1,
    "min_workers": 0,
    "cpus_per_worker": 1,
    "checkpoint_every": 1,
    "keep": 1,
    "at_once": 0,
    "max_failures": 0,
    "max_preemption_failures": -1,
    "loader_threads": 1,
    "log_every": 1,
    "validate_every": 0,
    "alarm_minutes": 1,
}


_LEAST_PATCH = 8

_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,100}")
"""Of a run: it is part of its pins' names (see `versions.pin`), and of folders, which are not to be `..`."""


def read_configs(argv: Sequence[str], usage: str) -> list[RunConfig]:
    """The configuration of every task that the command line asks for; the name and `out` are filled in.

    Raises UserError, naming the nearest right setting, task or preset.
    """
    asked = parse(RunConfig, argv, usage)
    if asked.name and not _NAME.fullmatch(asked.name):
        raise UserError(f"name={asked.name}: letters, digits and . _ - are wanted, 100 at most; out= may be any folder")
    configs = []
    for task in expand_tasks(asked.task):
        config = parse(RunConfig, [*_recipe(asked.recipe, task), *argv, f"task={task}"], usage)
        config.topk = config.topk.removeprefix("fixed:")
        _check(config)
        configs.append(config)
    models = {config.model for config in configs}
    name = asked.name or f"{models.pop() if len(models) == 1 else f'kgt-{asked.recipe}'}-{_digest(configs)}"
    out = asked.out or f"{home() / 'runs' / name}"
    if "://" not in out:
        out = f"file://{Path(out).expanduser().absolute()}"
    return [dataclasses.replace(config, name=name, out=out) for config in configs]


def loss_terms(loss: str) -> dict[str, float]:
    """The weight of every term of a loss that is written as `charbonnier+0.05*fft`. Raises UserError."""
    terms: dict[str, float] = {}
    for term in loss.split("+"):
        found = re.fullmatch(r" *(?:([0-9.]+(?:e-?[0-9]+)?) *\* *)?([a-z0-9]+) *", term, re.ASCII)
        try:
            weight, name = float(found[1] or 1), found[2]
        except (TypeError, ValueError):
            raise UserError(
                f"loss={loss}: write {', '.join(LOSSES)}, or a sum of these with weights, as charbonnier+0.05*fft"
            ) from None
        if name not in LOSSES:
            raise UserError(f"loss={loss}: unknown term '{name}': {nearest(name, LOSSES)}")
        if name in terms or not weight > 0:
            raise UserError(f"loss={loss}: each term stands once, with a weight above 0")
        terms[name] = weight
    return terms


def _recipe(recipe: str, task: str) -> list[str]:
    parts = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    values = {**parts.get("all", {}), **parts.get(task, {})}
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
    for name, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}={value}: a finite number is wanted")
    if config.topk != "random" and not (config.topk.isdecimal() and 1 <= int(config.topk) <= TOPK_NODES):
        raise UserError(f"topk={config.topk}: write topk=random, or a number of 1 to {TOPK_NODES}")
    if config.topk_dense and config.topk != "random":
        raise UserError(f"topk_dense=true is for topk=random, and topk={config.topk} draws nothing")
    for k in config.validated_k():
        if type(k) is not int or not 1 <= k <= TOPK_NODES:
            raise UserError(
                f"validate_k={config.validate_k}: a number of 1 to {TOPK_NODES} is wanted, or a list of them"
            )
    loss_terms(config.loss)
    config.profiled()
    config.sources()
    if not config.lr > 0:
        raise UserError(f"lr={config.lr}: a number above 0 is wanted")
    if not 0 <= config.ema < 1:
        raise UserError(f"ema={config.ema}: a number of 0 to below 1 is wanted")
    if config.min_workers > config.workers:
        raise UserError(f"min_workers={config.min_workers}: workers={config.workers} is the most there can be")
    _check_engine(config)
    _check_phases(config)
    if config.redraw and config.task not in REDRAWABLE:
        raise UserError(
            f"redraw=true is for {', '.join(REDRAWABLE)}: what degrades {config.task} needs the whole photograph"
        )


def _check_engine(config: RunConfig) -> None:
    if config.zero not in (0, 1, 2, 3):
        raise UserError(f"zero={config.zero}: stages 0, 1, 2 and 3 are there")
    if config.offload != "none" and config.zero == 0:
        raise UserError(f"offload={config.offload} is ZeRO's: give zero=1, 2 or 3")
    if config.offload == "parameters" and config.zero != 3:
        raise UserError("offload=parameters needs zero=3, which alone divides the parameters; else offload=optimizer")
    if config.gpus_per_worker not in (0, 1):
        raise UserError(f"gpus_per_worker={config.gpus_per_worker}: a worker drives one GPU; use more workers")
    if config.precision == "fp16" and not config.gpus_per_worker:
        raise UserError("precision=fp16 is for GPUs (gpus_per_worker=1): on a CPU use precision=bf16 or fp32")


def _check_phases(config: RunConfig) -> None:
    for name, least in (("patch", _LEAST_PATCH), ("batch_size", 1)):
        value = getattr(config, name)
        for number in value if isinstance(value, list) else [value]:
            if type(number) is not int:
                raise UserError(f"{name}={value}: a whole number is wanted, or a list of them as [64,96]")
            if number < least:
                raise UserError(f"{name}={written(value)}: {least} is the least")
    for name in ("patch_milestones", "lr_milestones"):
        milestones = getattr(config, name)
        if sorted(set(milestones)) != milestones or not all(0 < value < 1 for value in milestones):
            raise UserError(f"{name}={written(milestones)}: ascending fractions of the steps are wanted, as [0.5,0.8]")
    if config.schedule == "multistep" and not config.lr_milestones:
        raise UserError("schedule=multistep halves the rate at lr_milestones: give some, as lr_milestones=[0.5,0.8]")
    for phase in config.phases():
        _check_batch(config, phase.batch_size)
        if config.task == "demosaic" and phase.patch % 2:
            raise UserError(f"patch={phase.patch}: demosaicking needs an even patch, for whole cells of the mosaic")


def _check_batch(config: RunConfig, batch_size: int) -> None:
    for count in config.worker_counts()[:-1]:
        if batch_size % (count * config.accumulate):
            raise UserError(
                f"min_workers={config.min_workers}: {count} workers cannot share batch_size={batch_size} evenly"
            )
    share, rest = divmod(batch_size, config.workers)
    if rest:
        raise UserError(
            f"batch_size={batch_size} cannot be shared evenly by {config.workers} workers: "
            f"use workers of {_divisors(batch_size)}, or a multiple of {config.workers} as batch_size"
        )
    if share % config.accumulate:
        raise UserError(
            f"accumulate={config.accumulate} cannot cut a worker's {share} of batch_size={batch_size} pairs evenly: "
            f"use accumulate of {_divisors(share)}"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(count) for count in range(1, number + 1) if number % count == 0)
