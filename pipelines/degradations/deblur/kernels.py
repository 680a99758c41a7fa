"""Given blur kernels: as text that holds the kernel itself, and applied.

    kernel:<rows>x<columns>:<base64 of zlib of rows · columns little-endian uint16, the largest 65535>

A setting and a pair's record carry this text, so they mean the same on every machine, file or no file.
"""

import base64
import binascii
import re
import zlib
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from kgt.errors import UserError
from pipelines.degradations.deblur.kernel_files import LONGEST_SIDE, MOST, check_count, check_form, load
from pipelines.degradations.values import Choice, fixed

_TEXT = re.compile(r"kernel:([1-9]\d{0,2})x([1-9]\d{0,2}):([A-Za-z0-9+/]+=*)", re.ASCII)


def read(raw: Any, name: str) -> Choice:
    """Setting `name` as the user or a manifest wrote it: one or a list of files, folders and kernels as text.

    A file is a `.npy` or `.npz` of arrays (h, w) or (n, h, w), a folder holds grayscale PNGs, taken in the order of
    their names. An empty text stands for no kernels. Raises UserError.
    """
    if raw == "":
        return fixed("")
    entries = raw if isinstance(raw, (list, tuple)) else [raw]
    texts: list[str] = []
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            raise UserError(f"{name}={entry}: a .npy or .npz file of kernels or a folder of PNGs is wanted")
        if entry.startswith("kernel:"):
            decode(entry, name)
            texts.append(entry)
        else:
            texts += [encode(kernel, f"{name}={where}") for where, kernel in load(entry, name)]
    check_count(len(texts), name)
    return Choice(tuple(texts))


def encode(kernel: np.ndarray, where: str = "kernel") -> str:
    """A kernel (h, w) as text, its values relative to the largest to 16 bits. Raises UserError, naming it `where`."""
    check_form(kernel.shape, kernel.dtype, where)
    height, width = kernel.shape
    kernel = kernel.astype(np.float64)
    if not np.isfinite(kernel).all() or kernel.min() < 0 or kernel.max() == 0:
        raise UserError(f"{where}: a kernel's values are finite, none below 0 and some above it")
    levels = np.rint(kernel / kernel.max() * 65535).astype("<u2")
    return f"kernel:{height}x{width}:{base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode()}"


@lru_cache(maxsize=2 * MOST)
def decode(text: str, name: str = "kernel") -> np.ndarray:
    """The kernel that `encode` wrote: float32 (h, w) of sum 1, read-only. Raises UserError."""
    levels = _levels(text)
    if not levels.any():
        raise UserError(f"{name}={text[:24]}…: not a kernel as a manifest writes it; name the file it came from")
    kernel = (levels / levels.sum(dtype=np.float64)).astype(np.float32)
    kernel.flags.writeable = False
    return kernel


def shape_of(text: str) -> tuple[int, int]:
    """Rows and columns of a kernel as text."""
    height, width = text.split(":")[1].split("x")
    return int(height), int(width)


def convolve(light: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The true convolution (the kernel is a point's image) of float32 (H, W, C), mirrored beyond its border.

    A kernel's middle is at (h // 2, w // 2), counted from 0.
    """
    height, width = kernel.shape
    return cv2.filter2D(
        light,
        cv2.CV_32F,
        kernel[::-1, ::-1],
        anchor=(width - 1 - width // 2, height - 1 - height // 2),
        borderType=cv2.BORDER_REFLECT_101,
    )


def _levels(text: str) -> np.ndarray:
    """The numbers in the text: uint16 (h, w); of no size where the text is damaged."""
    match = _TEXT.fullmatch(text)
    nothing = np.zeros((0, 0), np.uint16)
    if not match or max(shape_of(text)) > LONGEST_SIDE:
        return nothing
    height, width = shape_of(text)
    try:
        levels = zlib.decompressobj().decompress(base64.b64decode(match[3], validate=True), 2 * height * width + 1)
    except (binascii.Error, zlib.error):
        return nothing
    return np.frombuffer(levels, "<u2").reshape(height, width) if len(levels) == 2 * height * width else nothing
