"""The six restoration tasks: the vocabulary that model, pipelines and training share. Standard library only."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kgt.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """How a task is scored: the colour space of PSNR and SSIM, and the border that is cut off first.

    `border` is in pixels; `"scale"` stands for the super-resolution factor.
    """

    space: Literal["rgb", "y"] = "rgb"
    border: int | Literal["scale"] = 0


@dataclass(frozen=True)
class Task:
    """One restoration task.

    `shape` is the KGT that the paper uses for it: columnar for super-resolution, U-shaped for the rest.
    `channels` are those of the degraded input and of the restored output (colour; a gray image is its RGB replica).
    `protocol` gives the headline figures; `also` names further ones that the field reports beside it.
    """

    name: str
    title: str
    channels: tuple[int, int] = (3, 3)
    shape: Literal["columnar", "u"] = "u"
    protocol: Protocol = Protocol()
    also: tuple[tuple[str, Protocol], ...] = ()


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("deblur", "motion deblurring"),
        Task("jpeg", "JPEG artifact removal"),
        Task("denoise", "denoising"),
        Task("weather", "adverse weather removal", also=(("y", Protocol("y")),)),
        Task(
            "demosaic", "demosaicking", channels=(1, 3), protocol=Protocol(border=10), also=(("uncropped", Protocol()),)
        ),
        Task("sr", "super-resolution", shape="columnar", protocol=Protocol("y", "scale")),
    )
}


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the likeliest meant, or all there are."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(known)}"


def get_task(name: str) -> Task:
    """The task of that name. Raises UserError with the nearest right name."""
    if name not in TASKS:
        raise UserError(f"unknown task '{name}': {nearest(name, TASKS)}")
    return TASKS[name]
