"""What was read as JSON, held against the types that it should have: a store is written by others, too."""

import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

KindT = TypeVar("KindT")

_BOUND = 2**63
"""No count or size reaches it, and numbers below it can be added and divided without overflow."""

_hints = cache(typing.get_type_hints)


def typed(kind: type[KindT], facts: Any) -> KindT:
    """A dataclass or TypedDict of these facts.

    Raises ValueError naming what is wrong: a field that is missing, unknown or not of the type it is declared with, a
    number that is not finite or has 2⁶³ and more.
    """
    if not isinstance(facts, Mapping):
        raise ValueError(f"a {kind.__name__} is wanted, not {_shown(facts)}")
    hints = _hints(kind)
    if odd := sorted(facts.keys() ^ hints.keys()):
        raise ValueError(f"{kind.__name__}: {odd[0][:40]!r} is {'missing' if odd[0] in hints else 'unknown'}")
    for name, hint in hints.items():
        if not _is(facts[name], hint):
            raise ValueError(f"{kind.__name__}: {name} is {_shown(facts[name])}")
    return kind(**facts)


def _is(value: Any, hint: Any) -> bool:
    arguments = typing.get_args(hint)
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(_is(value, member) for member in arguments)
    if typing.get_origin(hint) is dict:  # JSON has no keys but texts
        return isinstance(value, dict) and all(_is(member, arguments[1]) for member in value.values())
    if hint in (int, float):
        return type(value) in (int, hint) and abs(value) < _BOUND
    return type(value) is hint


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
