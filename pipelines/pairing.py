"""Ready pairs: which degraded image belongs to which clean one, by their names, in two folders."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from kgt.errors import UserError
from pipelines.alignment import PairCheck
from pipelines.degradations import settings_of, sr
from pipelines.sources import Source, list_sources


def list_pairs(clean: str, degraded: str, licence: str) -> list[Source]:
    """The pairs of two folders (or buckets' prefixes): sources of the clean image, `others` being the degraded one.

    A pair has its degraded image's name. Pairs that share a clean image are one group. Raises UserError as
    `list_sources` and `match_pairs` do.
    """
    pairs = match_pairs(list_sources(degraded, licence), list_sources(clean, licence), (degraded, clean))
    uses = Counter(good.name for _, good in pairs)
    sources = []
    for bad, good in pairs:
        if bad.span or good.span:
            raise UserError(f"{bad.name}: pairs are read from folders, not from tars")
        group = good.name if uses[good.name] > 1 else None
        sources.append(Source(bad.name, good.location, good.licence, others=(bad.location,), group=group))
    return sources


def pair_check(task: str, changes: Mapping[str, Any]) -> PairCheck:
    """What ready pairs of the task must meet, with what the user wrote under `tasks.<task>.`. Raises UserError."""
    settings = settings_of(task, changes)
    return PairCheck(task, sr.scales(settings) if task == "sr" else (1,))


def match_pairs(
    degraded: Sequence[Source], clean: Sequence[Source], folders: tuple[str, str]
) -> list[tuple[Source, Source]]:
    """Every degraded image with its clean one, in the order of `degraded`.

    Names count without suffix and without what all names of a folder share, so `blur_07.png` goes with `sharp_07.png`;
    several degraded images may belong to one clean image: `im_01_s80.png` and `im_01_s95.png` to `im_01.png`.
    Raises UserError, naming the `folders`, if an image of either is left over.
    """
    keys = _keys(clean)
    by_key = dict(zip(keys, clean, strict=True))
    if len(by_key) < len(clean):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{folders[1]} has several images named like '{twice}': keep one")
    pairs = []
    for source, key in zip(degraded, _keys(degraded), strict=True):
        mine = [k for k in by_key if key == k or key.startswith(f"{k}_")]
        if not mine:
            raise UserError(f"{source.name} of {folders[0]} has no clean image of its name in {folders[1]}")
        pairs.append((source, by_key[max(mine, key=len)]))
    used = {good.name for _, good in pairs}
    for source in clean:
        if source.name not in used:
            raise UserError(f"{source.name} of {folders[1]} has no degraded image of its name in {folders[0]}")
    return pairs


def _keys(sources: Sequence[Source]) -> list[str]:
    """Names without suffix, and without the beginning and end that all share; numbers are never cut apart."""
    stems = [str(PurePath(source.name).with_suffix("")) for source in sources]
    head = _shared(stems)
    rests = [stem[head:] for stem in stems]
    tail = _shared([rest[::-1] for rest in rests])
    return [rest[: len(rest) - tail] for rest in rests]


def _shared(texts: Sequence[str]) -> int:
    """The length of the beginning that all have in common, but for digits at its end."""
    common = 0
    for characters in zip(*texts, strict=False):
        if len(set(characters)) > 1:
            break
        common += 1
    return len(texts[0][:common].rstrip("0123456789"))
