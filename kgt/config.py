"""What a KGT is made of: its configuration and the published presets. Standard library only."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kgt.errors import UserError
from kgt.tasks import get_task, nearest

Shape = Literal["columnar", "u"]
Similarity = Literal["centred", "cosine", "dot"]
Baseline = Literal["input", "bicubic", "malvar"]

RANDOM_TOPK = (64, 128, 192, 256, 384, 512)
"""The neighbour counts, quoted for 1024 nodes, that training draws from (paper §3.3)."""

TOPK_NODES = 1024
"""The number of nodes that every `k` is quoted for: the paper's window of 32 × 32."""


@dataclass(frozen=True)
class KGTConfig:
    """Everything that shapes a KGT; written into every weights file.

    layers: KGT layers of each stage (columnar), or of each level from the finest to the latent one (u), where an
        encoder stage and its decoder stage have equally many.
    heads: attention heads of each stage or level; each must divide that stage's channels.
    upsampler: channels inside the upsampler (columnar).
    refinement: layers of the last stage at full resolution (u; 0 leaves the stage out).
    window: side M of the attention windows; a smaller map is one window.
    topk: neighbours used when none are asked for, quoted for 1024 nodes.
    baseline: what the network's output is added to.

    Raises UserError where a value cannot be.
    """

    shape: Shape
    dim: int
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    upsampler: int = 64
    refinement: int = 0
    ffn_ratio: int = 2
    window: int = 32
    similarity: Similarity = "centred"
    topk: int = 512
    in_channels: int = 3
    out_channels: int = 3
    scale: int = 1
    baseline: Baseline = "input"

    def __post_init__(self) -> None:
        for name, least, most in (
            ("dim", 1, 4096),
            ("upsampler", 1, 1024),
            ("refinement", 0, 64),
            ("ffn_ratio", 1, 16),
            ("window", 2, 128),
            ("topk", 1, TOPK_NODES),
            ("in_channels", 1, 16),
            ("out_channels", 1, 16),
            ("scale", 1, 4),
        ):
            _check(_is_int(getattr(self, name), least, most), name, self, f"an integer in [{least}, {most}]")
        for name in ("layers", "heads"):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and 0 < len(value) <= 64 and all(_is_int(v, 1, 64) for v in value)
            _check(fits, name, self, "1 to 64 integers in [1, 64]")
        for name, choices in (("shape", Shape), ("similarity", Similarity), ("baseline", Baseline)):
            _check(getattr(self, name) in get_args(choices), name, self, f"one of {', '.join(get_args(choices))}")
        _check(len(self.heads) == len(self.layers), "heads", self, f"{len(self.layers)} integers, as layers has")
        _check(all(w % h == 0 for w, h in zip(self.widths, self.heads, strict=True)), "heads", self, "divisors of dim")
        if self.shape == "u":
            _check(self.scale == 1, "scale", self, "1 in a u-shaped model")
            _check(1 < len(self.layers) <= 8, "layers", self, "two to eight levels in a u-shaped model")
            _check(self.dim % 2 == 0, "dim", self, "even in a u-shaped model")
        if self.baseline == "malvar":
            fits = (self.in_channels, self.out_channels, self.scale) == (1, 3, 1)
            _check(fits, "baseline", self, "malvar only from 1 channel to 3 at scale 1")
        else:
            _check(self.in_channels == self.out_channels, "out_channels", self, f"in_channels for {self.baseline}")
            _check(
                (self.scale > 1) == (self.baseline == "bicubic"), "baseline", self, "bicubic exactly where scale > 1"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage (columnar) or level (u: doubled at every level)."""
        return tuple(self.dim << level if self.shape == "u" else self.dim for level in range(len(self.layers)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "KGTConfig":
        """Raises UserError for an unknown, missing or impossible value."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                raise UserError(f"unknown model setting '{name}': {nearest(str(name), fields)}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise UserError(f"model setting '{name}' is missing")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _is_int(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check(holds: bool, name: str, config: KGTConfig, wanted: str) -> None:
    if not holds:
        raise UserError(f"model setting {name}={getattr(config, name)!r}: must be {wanted}")


def neighbours(k: int, nodes: int) -> int:
    """How many neighbours a window of `nodes` nodes keeps when `k` are asked for of 1024: at least one, halves up."""
    return max(1, (2 * k * nodes + TOPK_NODES) // (2 * TOPK_NODES))


# Columnar presets: paper, table of super-resolution models (their parameter counts fix every choice here).
# kgt-u: the paper gives 25.82 M parameters and no level table; this table is ours and has 25,819,127.
# kgt-tiny: ours; small enough to train on a laptop's CPU in under a minute; its windows of 16 keep k < N on patches of
# 64 pixels.
_COLUMNAR = {
    "kgt-tiny": {"dim": 32, "layers": (1, 1), "heads": (2, 2), "upsampler": 24, "window": 16},
    "kgt-s": {"dim": 180, "layers": (6,) * 6, "heads": (6,) * 6},
    "kgt-b": {"dim": 180, "layers": (8,) * 8, "heads": (6,) * 8},
}
_U = {
    "kgt-tiny": {"dim": 16, "layers": (1, 1), "heads": (1, 2), "window": 16},
    "kgt-u": {"dim": 64, "layers": (4,) * 4, "heads": (2, 4, 8, 16), "refinement": 2},
}
PRESETS = tuple(sorted({*_COLUMNAR, *_U}))


def preset(name: str, task: str, scale: int = 1) -> KGTConfig:
    """The preset's configuration for a task; `scale` is the factor of super-resolution (2, 3 or 4) and 1 elsewhere.

    Raises UserError for an unknown name, a task that the preset has no shape for, or a scale that is not the task's.
    """
    if name not in PRESETS:
        raise UserError(f"unknown model '{name}': {nearest(name, PRESETS)}")
    described = get_task(task)
    table = _COLUMNAR if described.shape == "columnar" else _U
    if name not in table:
        raise UserError(f"model '{name}' is not made for task '{task}': choose {' or '.join(sorted(table))}")
    if task == "sr" and scale not in (2, 3, 4):
        raise UserError(f"scale {scale} is not one of super-resolution: choose 2, 3 or 4")
    if task != "sr" and scale != 1:
        raise UserError(f"scale {scale} belongs to task 'sr' alone: leave it at 1 for '{task}'")
    in_channels, out_channels = described.channels
    baseline: Baseline = "bicubic" if task == "sr" else "malvar" if in_channels == 1 else "input"
    return KGTConfig(
        shape=described.shape,
        in_channels=in_channels,
        out_channels=out_channels,
        scale=scale,
        baseline=baseline,
        **table[name],
    )
