"""Files of blur kernels. A file is a stranger's: sizes are read, and found to be a kernel's, before any data is.

`np.load` reserves what a header asks for and inflates what an archive holds, so it is not used.
"""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from kgt.errors import UserError

MOST = 256  # kernels
LONGEST_SIDE = 129  # pixels

_LARGEST_FILE = MOST * LONGEST_SIDE**2 * 8 + 2**20  # bytes: all the kernels that are allowed, in float64
_GRAY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L")
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What NumPy raises on a header, a Python literal, that is damaged.
_BAD_HEADER = (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError, tokenize.TokenError)
# What the system, zip (RuntimeError: encrypted or packed in a way it does not know) and Pillow raise on a damaged file.
_BAD_FILE = (OSError, EOFError, ValueError, SyntaxError, RuntimeError, zipfile.BadZipFile, zlib.error)


def load(entry: str, name: str) -> list[tuple[str, np.ndarray]]:
    """Every kernel (h, w) of a `.npy` or `.npz` file or a folder of grayscale PNGs, with the file that it came from.

    Raises UserError, naming the setting `name`.
    """
    try:
        path = Path(entry).expanduser()
        if path.is_dir():
            return [(str(file), _picture(file, f"{name}={file}")) for file in _pictures(path, name)]
        if not path.is_file():
            raise UserError(f"{name}={path}: no such file or folder")
        readers = {".npy": _npy, ".npz": _npz}
        if path.suffix.lower() not in readers:
            raise UserError(f"{name}={path}: a .npy or .npz file or a folder of PNGs is wanted")
        if path.stat().st_size > _LARGEST_FILE:
            raise UserError(f"{name}={path}: larger than {MOST} kernels can be ({_LARGEST_FILE >> 20} MiB)")
        arrays = readers[path.suffix.lower()](path, f"{name}={path}")
        return [(str(path), kernel) for array in arrays for kernel in (array if array.ndim == 3 else [array])]
    except UserError:
        raise
    except _BAD_FILE as error:
        raise UserError(f"{name}: {entry} cannot be read ({error})") from error


def check_form(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    """Raises UserError, naming `where`, unless a kernel can have this shape and type."""
    if len(shape) != 2 or dtype.kind not in "buif":
        raise UserError(f"{where}: a kernel is a 2-D array of numbers, not {len(shape)}-D of {dtype}")
    if not 1 <= min(shape) <= max(shape) <= LONGEST_SIDE:
        raise UserError(f"{where}: a kernel of {shape[0]}x{shape[1]}, sides of 1 to {LONGEST_SIDE} are allowed")


def check_count(kernels: int, where: str) -> None:
    """Raises UserError, naming `where`, unless so many kernels are allowed."""
    if not 0 < kernels <= MOST:
        raise UserError(f"{where}: {kernels} kernels, 1 to {MOST} are allowed")


def _npy(path: Path, where: str) -> list[np.ndarray]:
    with path.open("rb") as file:
        return [_array(file, where, "; if you trust it: np.savez(out, *np.load(file, allow_pickle=True).ravel())")]


def _npz(path: Path, where: str) -> list[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_count(len(members), where)
        if sum(member.file_size for member in members) > _LARGEST_FILE:
            raise UserError(f"{where}: unpacked larger than {MOST} kernels can be ({_LARGEST_FILE >> 20} MiB)")
        arrays = []
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{where}: packed as np.savez and np.savez_compressed never do: save it with these")
            with archive.open(member) as file:
                arrays.append(_array(file, f"{where}: {member.filename}"))
        return arrays


def _array(file: IO[bytes], where: str, way: str = "") -> np.ndarray:
    """The array (h, w) or (n, h, w) in a `.npy` file; `way` is what to do about one that holds Python objects."""
    try:
        shape, by_columns, dtype = _HEADERS[npy.read_magic(file)](file)
    except _BAD_HEADER as error:
        raise UserError(f"{where} is not a .npy file, or a damaged one") from error
    if dtype.hasobject:
        raise UserError(f"{where}: holds Python objects, which can run code and are not read{way}")
    if len(shape) == 3:
        check_count(shape[0], where)
    check_form(shape[-2:] if len(shape) == 3 else shape, dtype, where)
    size = int(np.prod(shape)) * dtype.itemsize
    content = file.read(size)
    if len(content) < size:
        raise UserError(f"{where} is cut short: {len(content)} of {size} bytes of numbers")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


def _pictures(folder: Path, name: str) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png")
    if not files:
        raise UserError(f"{name}={folder}: no PNG in that folder")
    check_count(len(files), f"{name}={folder}")
    return files


def _picture(path: Path, where: str) -> np.ndarray:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in _GRAY_MODES:
                raise UserError(f"{where}: a grayscale PNG is wanted, this one is {image.mode}")
            check_form((image.height, image.width), np.dtype(np.uint16), where)
            return np.asarray(image)
    except Image.DecompressionBombError as error:
        raise UserError(f"{where}: too large for a kernel, sides of 1 to {LONGEST_SIDE} are allowed") from error
