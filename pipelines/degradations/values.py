"""A setting's values: one fixed number or word, a choice, a range; and the draw of one pair's parameters from them.

As written by a user (`tasks.<task>.<setting>=…`, YAML on the right of the first `=`):

    quality=10                      fixed
    quality=[10,20,30]              a choice, each as likely
    kind={rain: 2, snow: 1}         a choice with weights
    sigma={min: 0, max: 50}         a range, uniform (or log-uniform where the setting says so)
"""

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from kgt.errors import UserError
from kgt.tasks import nearest

Scalar = bool | int | float | str
SettingsT = TypeVar("SettingsT")

_LONGEST_WRITTEN = 40  # characters of a text in a label


@dataclass(frozen=True)
class Choice:
    """One of `options`, drawn with the given relative `weights` (none: equal). One option is a fixed value."""

    options: tuple[Scalar, ...]
    weights: tuple[float, ...] | None = None

    def draw(self, rng: np.random.Generator) -> Scalar:
        """One option. A fixed value takes nothing from `rng`."""
        if len(self.options) == 1:
            return self.options[0]
        if self.weights is None:
            return self.options[int(rng.integers(len(self.options)))]
        shares = np.cumsum(self.weights)
        return self.options[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]

    def drawable(self) -> list[Scalar]:
        """The options whose weight is not 0."""
        weights = self.weights or (1.0,) * len(self.options)
        return [option for option, weight in zip(self.options, weights, strict=True) if weight > 0]

    def plain(self) -> Any:
        """As the user writes it, for JSON."""
        if self.weights is not None:
            names = [option if isinstance(option, str) else json.dumps(option) for option in self.options]
            return dict(zip(names, self.weights, strict=True))
        return self.options[0] if len(self.options) == 1 else list(self.options)


@dataclass(frozen=True)
class Range:
    """`low` to `high`, both included; whole numbers where both ends are written as such and the setting counts."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def draw(self, rng: np.random.Generator) -> Scalar:
        """One number, uniform in value or in logarithm."""
        if self.whole:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if self.log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def plain(self) -> Any:
        """As the user writes it, for JSON."""
        return {"min": self.low, "max": self.high}


Values = Choice | Range


def fixed(value: Scalar) -> Choice:
    """A setting that does not vary."""
    return Choice((value,))


@dataclass(frozen=True)
class Kind:
    """What a setting accepts: words out of `words`, a truth value, or numbers in `[low, high]` (`whole`: integers).

    `read(raw, name)`, where there is one, makes the setting's values of what was written, whatever that is.
    """

    read: Callable[[Any, str], Values] | None = None
    words: tuple[str, ...] = ()
    truth: bool = False
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    log: bool = False

    def scalar(self, raw: Any, name: str) -> Scalar:
        """`raw` as this kind of value. Raises UserError naming the setting and what it takes."""
        if self.words:
            if raw not in self.words:
                raise UserError(f"{name}={raw}: {nearest(str(raw), self.words)}")
            return raw
        if self.truth:
            if not isinstance(raw, bool):
                raise UserError(f"{name}={raw}: true or false is wanted")
            return raw
        is_number = isinstance(raw, (int, float)) and not isinstance(raw, bool) and math.isfinite(raw)
        if not is_number or (self.whole and raw != int(raw)):
            raise UserError(f"{name}={raw}: {'a whole number' if self.whole else 'a number'} is wanted")
        if not self.low <= raw <= self.high:
            raise UserError(f"{name}={raw}: out of range, {self.low:g} to {self.high:g} is allowed")
        return int(raw) if self.whole else float(raw)

    def _option(self, key: Any) -> Any:
        """A mapping's key: YAML has numbers and truth values there, JSON only their text."""
        if isinstance(key, str) and not self.words:
            with contextlib.suppress(ValueError):
                return json.loads(key)
        return key

    def values(self, raw: Any, name: str) -> Values:
        """What the user wrote for setting `name`, checked. Raises UserError."""
        if self.read is not None:
            return self.read(raw, name)
        if isinstance(raw, Mapping) and set(raw) == {"min", "max"} and not self.words and not self.truth:
            low, high = self.scalar(raw["min"], f"{name}.min"), self.scalar(raw["max"], f"{name}.max")
            if low > high:
                raise UserError(f"{name}: min {low:g} is above max {high:g}")
            return Range(low, high, self.whole, self.log)
        if isinstance(raw, Mapping):
            weights = {self.scalar(self._option(key), name): weight for key, weight in raw.items()}
            weight_kind = Kind(low=0)
            checked = tuple(float(weight_kind.scalar(w, f"{name}.{option}")) for option, w in weights.items())
            if not 0 < sum(checked) < math.inf:
                raise UserError(f"{name}: a choice with weights needs one weight above 0, and a finite sum of them")
            return Choice(tuple(weights), checked)
        if isinstance(raw, (list, tuple)):
            if not raw:
                raise UserError(f"{name}=[]: a choice needs at least one value")
            return Choice(tuple(self.scalar(option, name) for option in raw))
        return fixed(self.scalar(raw, name))


def numbers(low: float, high: float, *, whole: bool = False, log: bool = False) -> dict[str, Kind]:
    """Field metadata of a setting that takes numbers."""
    return {"kind": Kind(low=low, high=high, whole=whole, log=log)}


def words(*allowed: str) -> dict[str, Kind]:
    """Field metadata of a setting that takes one of these words."""
    return {"kind": Kind(words=allowed)}


def truth() -> dict[str, Kind]:
    """Field metadata of a setting that is true or false."""
    return {"kind": Kind(truth=True)}


def special(read: Callable[[Any, str], Values]) -> dict[str, Kind]:
    """Field metadata of a setting with a form of its own; `read` raises UserError and reads back what it gave."""
    return {"kind": Kind(read=read)}


def when(name: str, value: Scalar) -> dict[str, tuple[str, Scalar]]:
    """Field metadata of a setting that counts only where the setting `name` is `value`."""
    return {"when": (name, value)}


def override(settings: SettingsT, changes: Mapping[str, Any], prefix: str = "") -> SettingsT:
    """`settings` with the user's `changes` put in. Raises UserError on an unknown setting or a value it cannot take.

    `prefix` stands before setting names in messages, such as `tasks.jpeg.`.
    """
    kinds = {field.name: field.metadata["kind"] for field in dataclasses.fields(settings)}
    for name in changes:
        if name not in kinds:
            raise UserError(f"unknown setting '{prefix}{name}': {nearest(name, kinds)}")
    return dataclasses.replace(
        settings, **{name: kinds[name].values(raw, prefix + name) for name, raw in changes.items()}
    )


def draw(settings: Any, rng: np.random.Generator) -> dict[str, Scalar]:
    """One pair's parameters: every setting drawn once, in the order they are declared; then those that count."""
    drawn = {field.name: getattr(settings, field.name).draw(rng) for field in dataclasses.fields(settings)}
    return {name: value for name, value in drawn.items() if name not in _without_effect(settings, drawn)}


def idle(settings: Any, names: Collection[str]) -> list[str]:
    """Of the settings `names`, those that no draw makes count: each with why, such as `sigma has no effect with …`."""
    reasons = []
    for field in dataclasses.fields(settings):
        if field.name in names and "when" in field.metadata:
            condition, value = field.metadata["when"]
            if value not in getattr(settings, condition).drawable():
                written = ",".join(map(_written, getattr(settings, condition).drawable()))
                reasons.append(f"{field.name} has no effect with {condition}={written}")
    return reasons


def plain(settings: Any) -> dict[str, Any]:
    """The settings as the user would write them, ready for JSON: what manifests and fingerprints record."""
    return {field.name: getattr(settings, field.name).plain() for field in dataclasses.fields(settings)}


def each(settings: SettingsT, named: Collection[str] = ()) -> Iterator[tuple[str, SettingsT]]:
    """Every combination of the choices, as (label, settings with that choice fixed): one row of a report each.

    The label names what is chosen (`quality=10`), and the fixed settings and ranges (`sigma=5-20`) that are `named`.
    Ranges stay ranges, to be drawn for each image. Where a setting does not count (see `when`), neither do its choices.
    """
    choices = {name: values.options for name, values in vars(settings).items() if isinstance(values, Choice)}
    rows: list[dict[str, Scalar | Range]] = []
    for combination in itertools.product(*choices.values()):
        picked = dict(zip(choices, combination, strict=True))
        shown = (set(named) | {name for name in choices if len(choices[name]) > 1}) - _without_effect(settings, picked)
        row = {name: value for name, value in (vars(settings) | picked).items() if name in shown}
        if row not in rows:
            rows.append(row)
            label = " ".join(f"{name}={_written(value)}" for name, value in row.items())
            yield label, dataclasses.replace(settings, **{name: fixed(value) for name, value in picked.items()})


def _without_effect(settings: Any, drawn: Mapping[str, Scalar]) -> set[str]:
    """The settings that do not count with the values `drawn`."""
    conditions = {
        field.name: field.metadata["when"] for field in dataclasses.fields(settings) if "when" in field.metadata
    }
    return {setting for setting, (name, value) in conditions.items() if drawn[name] != value}


def _written(value: Scalar | Range) -> str:
    if isinstance(value, Range):
        return f"{_written(value.low)}-{_written(value.high)}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and len(value) > _LONGEST_WRITTEN:
        return f"{value[:14]}…{value[-8:]}"
    return f"{value:g}" if isinstance(value, float) else str(value)
