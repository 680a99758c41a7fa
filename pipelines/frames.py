"""Windows of consecutive frames: folders of a video's sharp frames as sources of motion blur."""

import itertools
import posixpath
import re
from typing import NamedTuple

from kgt.errors import UserError
from pipelines.sources import Source, list_sources


class Windows(NamedTuple):
    """One source a window, and the names of the frames that fill none."""

    sources: list[Source]
    left_over: list[str]


def list_frames(address: str, n: int, licence: str) -> Windows:
    """The frames at `address` (as `list_sources` takes it, but no tars), `n` consecutive ones of a folder at a time.

    Frames come in the order of their names, numbers by their value; windows do not overlap. A window is the source of
    its middle frame, the clean one; `others` are its n - 1 other frames in order, `group` is its folder: neighbouring
    windows show one scene. Raises UserError for an even `n`, and if no folder has enough frames.
    """
    if n < 3 or n % 2 == 0:
        raise UserError(f"frames={n}: an odd number from 3 on is wanted, its middle frame is the clean one")
    frames = sorted(list_sources(address, licence), key=lambda frame: (posixpath.dirname(frame.name), _natural(frame)))
    windows: list[Source] = []
    left_over: list[str] = []
    for folder, members in itertools.groupby(frames, lambda frame: posixpath.dirname(frame.name)):
        scene = list(members)
        if any(frame.span for frame in scene):
            raise UserError(f"source {address}: frames are read from folders, not from tars")
        whole = len(scene) // n * n
        windows += [_window(folder, scene[first : first + n]) for first in range(0, whole, n)]
        left_over += [frame.name for frame in scene[whole:]]
    if not windows:
        raise UserError(f"source {address}: no folder there has {n} frames")
    return Windows(windows, left_over)


def _window(folder: str, frames: list[Source]) -> Source:
    middle = frames.pop(len(frames) // 2)
    others = tuple(frame.location for frame in frames)
    return Source(middle.name, middle.location, middle.licence, others=others, group=folder or ".")


def _natural(frame: Source) -> list[str | int]:
    parts = re.split(r"(\d+)", posixpath.basename(frame.name))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
