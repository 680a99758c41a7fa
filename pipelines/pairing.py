"""Ready pairs: which degraded image belongs to which clean one, by their names, in two folders."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kgt.errors import UserError
from pipelines.alignment import PairCheck
from pipelines.degradations import settings_of, sr
from pipelines.sources import Source, list_sources

_SEPARATORS = "_-."
_SCALE = re.compile(r"x\d$")  # as DIV2K's and Set5's small images have it: 0001x2, babyx4
_NUMBER = re.compile(r"\d+")


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

    Names count without suffix and without the folders that all of a list share; other subfolders are part of them. An
    image belongs to the clean one of its name, or else of the longest name that its own goes on from, after `_`, `-`
    or `.`, or with a scale: `im_01_s80.png` and `im_01_s95.png` to `im_01.png`, `0001x2.png` to `0001.png`. Where so
    not all have a partner, names count without the words that all of a list begin and end with: `blur_07.png` goes
    with `sharp_07.png`.

    Raises UserError, naming the `folders`, if an image of either is left over.
    """
    names, clean_names = _names(degraded), _names(clean)
    if len(set(clean_names)) < len(clean):
        twice = next(name for name, count in Counter(clean_names).items() if count > 1)
        raise UserError(f"{folders[1]} has several images named like '{twice}': keep one")
    found = _partners(names, clean_names)
    if not _complete(found, len(clean)):
        found = _partners(*_without_shared_words(names, clean_names))
    for source, place in zip(degraded, found, strict=True):
        if place is None:
            raise UserError(f"{source.name} of {folders[0]} has no clean image of its name in {folders[1]}")
    used = set(found)
    for place, source in enumerate(clean):
        if place not in used:
            raise UserError(f"{source.name} of {folders[1]} has no degraded image of its name in {folders[0]}")
    return [(source, clean[place]) for source, place in zip(degraded, found, strict=True)]


def _partners(names: Sequence[str], clean_names: Sequence[str]) -> list[int | None]:
    """For each of `names`, the place of the one of `clean_names` that it is or goes on from."""
    places = {name: place for place, name in enumerate(clean_names)}
    return [next((places[begin] for begin in _beginnings(name) if begin in places), None) for name in names]


def _beginnings(name: str) -> Iterator[str]:
    """The names that an image of this name may be made of, longest first."""
    yield name
    yield _SCALE.sub("", name)
    for end in range(len(name) - 1, 0, -1):
        if name[end] in _SEPARATORS:
            yield name[:end]


def _complete(found: Sequence[int | None], clean: int) -> bool:
    return None not in found and len(set(found)) == clean


def _names(sources: Sequence[Source]) -> list[str]:
    """Names without suffix and without the folders that all share."""
    stems = [posixpath.splitext(source.name)[0] for source in sources]
    folders = posixpath.commonprefix([posixpath.dirname(stem).split("/") for stem in stems])
    return ["/".join(stem.split("/")[len(folders) :]) for stem in stems] if folders != [""] else stems


def _without_shared_words(*lists: Sequence[str]) -> tuple[list[str], ...]:
    """The names of each list without the words that all its file names begin and end with.

    A number in such words may tell scenes apart: unless one list has none there, or both the same, names stay whole.
    """
    shorter, words = zip(*map(_shorten, lists), strict=True)
    numbers = [_NUMBER.findall(word) for word in words]
    return shorter if [] in numbers or numbers[0] == numbers[1] else tuple(map(list, lists))


def _shorten(names: Sequence[str]) -> tuple[list[str], str]:
    """The names without what their file names share, and that."""
    folders, files = zip(*map(posixpath.split, names), strict=True)
    head = _shared(files)
    tail = _shared([file[head:][::-1] for file in files])
    inner = [file[head : len(file) - tail] for file in files]
    words = f"{files[0][:head]} {files[0][len(files[0]) - tail :]}"
    return list(map(posixpath.join, folders, inner)), words


def _shared(texts: Sequence[str]) -> int:
    """The length of what all begin with, whole words only: up to a separator, or to where numbers begin in all.

    Nothing is shared by one alone.
    """
    if len(texts) == 1:
        return 0
    common = len(posixpath.commonprefix(texts))
    for end in range(common, 0, -1):
        last = texts[0][end - 1]
        if last in _SEPARATORS or (not last.isdigit() and all(text[end : end + 1].isdigit() for text in texts)):
            return end
    return 0
