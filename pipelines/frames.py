"""Windows of consecutive frames: folders of a video's sharp frames as sources of motion blur."""

import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kgt.errors import UserError
from pipelines.sources import Source, list_sources


class Windows(NamedTuple):
    """One source a window, and the names of the frames that fill none."""

    sources: list[Source]
    left_over: list[str]


class _Frame(NamedTuple):
    """A frame, and what its name says: its folder, the text between its numbers, the numbers."""

    folder: str
    text: tuple[str, ...]
    numbers: tuple[int, ...]
    source: Source


def list_frames(address: str, n: int, licence: str) -> Windows:
    """The frames at `address` (as `list_sources` takes it, but no tars), `n` consecutive ones of a scene at a time.

    Scenes are told by the names: one has the same folder, the same text, and a number that counts its frames, the last
    one that is not the same in all of them. Where that number jumps by more than it mostly does, the next scene begins.
    Windows do not overlap. A window is the source of its middle frame, the clean one; `others` are its n - 1 other
    frames in order, `group` is the name of its scene's first frame.

    Raises UserError for an even `n`, and if no scene has enough frames.
    """
    if n < 3 or n % 2 == 0:
        raise UserError(f"frames={n}: an odd number from 3 on is wanted, its middle frame is the clean one")
    found = list_sources(address, licence)
    if any(frame.span for frame in found):
        raise UserError(f"source {address}: frames are read from folders, not from tars")
    frames = sorted(map(_read_name, found), key=lambda frame: (*frame[:3], frame.source.name))
    windows: list[Source] = []
    left_over: list[str] = []
    for scene in _scenes(frames):
        whole = len(scene) // n * n
        windows += [_window(scene[0].name, scene[first : first + n]) for first in range(0, whole, n)]
        left_over += [frame.name for frame in scene[whole:]]
    if not windows:
        raise UserError(f"source {address}: no folder there has {n} frames numbered one after the other")
    return Windows(windows, left_over)


def _window(group: str, frames: list[Source]) -> Source:
    middle = frames.pop(len(frames) // 2)
    others = tuple(frame.location for frame in frames)
    return Source(middle.name, middle.location, middle.licence, others=others, group=group)


def _read_name(frame: Source) -> _Frame:
    folder, name = posixpath.split(frame.name)
    parts = re.split(r"(\d+)", name)
    return _Frame(folder, tuple(parts[::2]), tuple(map(int, parts[1::2])), frame)


def _scenes(frames: Sequence[_Frame]) -> Iterator[list[Source]]:
    """The frames, sorted, cut into scenes."""
    for _, members in itertools.groupby(frames, lambda frame: (frame.folder, frame.text)):
        alike = list(members)
        columns = list(zip(*(frame.numbers for frame in alike), strict=True))
        counter = max((place for place, column in enumerate(columns) if len(set(column)) > 1), default=0)
        for _, counted in itertools.groupby(alike, lambda frame, counter=counter: frame.numbers[:counter]):
            yield from _without_jumps(list(counted), counter)


def _without_jumps(frames: Sequence[_Frame], counter: int) -> Iterator[list[Source]]:
    """The frames cut where the number at the place `counter` grows by more than it mostly does, or does not grow."""
    steps = [after.numbers[counter] - before.numbers[counter] for before, after in itertools.pairwise(frames)]
    often = Counter(step for step in steps if step > 0)
    usual = min(often, key=lambda step: (-often[step], step), default=0)
    cuts = [place for place, step in enumerate(steps, start=1) if not 0 < step <= usual]
    for first, last in itertools.pairwise([0, *cuts, len(frames)]):
        yield [frame.source for frame in frames[first:last]]
