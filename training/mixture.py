"""Mixed datasets: which versions of which stores a run reads, and how often. Loads no torch.

`store=`, `version=` and `weights=` are parallel: one value for all datasets, or a list with one for each. A list of
texts is written as YAML has it, `[file:///a,s3://bucket/b]`; so are several datasets wherever they are noted down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from kgt.errors import UserError

MOST_WEIGHT = 1000
"""The pattern of a mixture is as long as the sum of its weights."""


@dataclass(frozen=True)
class Source:
    """One dataset as it is asked for: `store` and `version` may be empty, for the default and the newest."""

    store: str
    version: str
    weight: int


def sources_of(store: str, version: str, weights: Sequence[int]) -> tuple[Source, ...]:
    """The datasets of a run. weights: none for all alike.

    Raises UserError where a list is no list, or the lists do not fit together.
    """
    stores, versions = listed(store, "store"), listed(version, "version")
    count = max(len(stores), len(versions))
    for name, text, values in (("store", store, stores), ("version", version, versions)):
        if len(values) != count and is_list(text):
            raise UserError(f"{name}={text}: the run reads {count} datasets, so give as many, or one without brackets")
    if weights and len(weights) != count:
        raise UserError(f"weights={list(weights)}: give one for each dataset, of which there are {count}")
    if any(not 1 <= weight <= MOST_WEIGHT for weight in weights):
        raise UserError(f"weights={list(weights)}: whole numbers of 1 to {MOST_WEIGHT} are wanted")
    stores, versions = (values if len(values) == count else values * count for values in (stores, versions))
    return tuple(Source(*values) for values in zip(stores, versions, weights or [1] * count, strict=True))


def is_list(text: str) -> bool:
    """Whether the text stands for several."""
    return text.startswith("[")


def listed(text: str, name: str) -> list[str]:
    """The texts that `text` stands for: itself, or what the list holds. name: of the setting, for the UserError."""
    if not is_list(text):
        return [text]
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{name}={text}: a list is written [a,b]; what holds a comma stands in quotes, as ['a,1',b]")
    return values


def written(texts: Sequence[str]) -> str:
    """What `listed` reads: a single text as it stands."""
    if len(texts) == 1:
        return texts[0]
    return yaml.safe_dump(list(texts), default_flow_style=True, width=float("inf")).strip()
