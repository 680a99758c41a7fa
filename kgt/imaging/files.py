"""Image files: reading that trusts nothing, and writing that never leaves half a file."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kgt.atomic import write_atomically
from kgt.errors import UserError

# The formats whose bit depth `_is_deep` can tell: Pillow itself cuts deep colour to 8 bits without a word.
READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
# What a folder is searched for, and what can be written: the suffix and Pillow's format and options for it.
WRITABLE = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".bmp": ("BMP", {}),
}
_NO_ALPHA = ("JPEG", "BMP")

MIN_SIDE = 16
MAX_PIXELS = 100_000_000
MAX_PHOTO_PIXELS = 178_956_970  # where Pillow itself stops

# What Pillow's decoders raise on damaged data, beside its own errors (found by mutating files).
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error)

_WHY = {
    "not-an-image": f"not an image of a kind that is read ({', '.join(READABLE)})",
    "truncated": "the file is truncated or damaged",
    "16-bit": "more than 8 bits a channel: convert it to 8 bits first",
    "cmyk": "CMYK: convert it to RGB first",
    "colour-space": "neither RGB nor gray: convert it to RGB first",
    "alpha": "it has an alpha channel",
    "animated": "several frames: save the one that is meant as a file of its own",
    "too-small": f"a side shorter than {MIN_SIDE} pixels",
    "too-large": "more pixels than are read at once: cut it into parts first",
}


class ImageError(ValueError):
    """An image that is not fit for use. `reason` is a word for statistics, the message a line for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(_WHY[reason])
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return ImageError, (self.reason,)


@dataclass(frozen=True)
class Photo:
    """A picture as people have it: upright uint8 pixels (H, W, 3) or (H, W); alpha (H, W) and ICC profile, if any."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None


def read_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The upright pixels of a training or test image: uint8 (H, W, 3) or (H, W).

    Raises ImageError for anything that would be guessed at or silently altered (alpha, more than 8 bits, CMYK, frames),
    is damaged, has more than `max_pixels` pixels or a side below `MIN_SIDE`; OSError if a path cannot be read.
    """
    photo = _decode(source if isinstance(source, bytes) else source.read_bytes(), max_pixels)
    if photo.alpha is not None:
        raise ImageError("alpha")
    if min(photo.pixels.shape[:2]) < MIN_SIDE:
        raise ImageError("too-small")
    return photo.pixels


def read_photo(path: Path) -> Photo:
    """A picture to restore, of at most `MAX_PHOTO_PIXELS` pixels. Raises UserError with the way out."""
    try:
        return _decode(path.read_bytes(), MAX_PHOTO_PIXELS)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ImageError as error:
        raise UserError(f"cannot use {path}: {error}") from error


def write_image(path: Path, pixels: np.ndarray, *, alpha: np.ndarray | None = None, icc: bytes | None = None) -> None:
    """Writes uint8 (H, W, 3) or (H, W), whole or not at all, in the format that the suffix names; makes its folder.

    Raises UserError for an unknown suffix, an alpha that the format cannot hold, or a place that refuses.
    """
    check_writable(path, alpha=alpha is not None)
    kind, options = WRITABLE[path.suffix.lower()]
    image = Image.fromarray(np.ascontiguousarray(pixels if alpha is None else np.dstack([pixels, alpha])))
    encoded = io.BytesIO()
    try:
        image.save(encoded, kind, **options, **({"icc_profile": icc} if icc else {}))
        write_atomically(path, encoded.getbuffer())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}") from error


def check_writable(path: Path, *, alpha: bool = False) -> None:
    """Raises UserError if no image could be written under that name, before any work is done for it."""
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"cannot write {path}: the suffix must be one of {', '.join(WRITABLE)}")
    if alpha and WRITABLE[path.suffix.lower()][0] in _NO_ALPHA:
        raise UserError(
            f"cannot write {path}: {path.suffix} has no alpha channel, the picture has: write .png or .webp"
        )


def list_images(folder: Path) -> list[Path]:
    """Every image file under a folder, by suffix, sorted, without hidden ones. Raises UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: name its folder" if folder.exists() else f"no such folder: {folder}")
    candidates = (path for path in folder.rglob("*") if path.suffix.lower() in WRITABLE and path.name[0] != ".")
    found = sorted(path for path in candidates if path.is_file())
    if not found:
        raise UserError(f"no image in {folder} (looked for {', '.join(WRITABLE)})")
    return found


def _decode(data: bytes, max_pixels: int) -> Photo:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large or oddly tagged files: `_refuse` judges them
            with Image.open(io.BytesIO(data), formats=READABLE) as image:
                _refuse(image, max_pixels)
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _photo(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("too-large") from error
    except UnidentifiedImageError as error:
        raise ImageError("not-an-image") from error
    except _DAMAGE as error:
        raise ImageError("truncated") from error


def _refuse(image: Image.Image, max_pixels: int) -> None:
    """Raises ImageError for what the header alone condemns, before any pixel is decoded."""
    if image.width * image.height > max_pixels:
        raise ImageError("too-large")
    # A phone's JPEG may hold a preview or a depth map as a second frame (MPO): the first is the photograph.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageError("animated")
    if image.mode == "CMYK":
        raise ImageError("cmyk")
    if _is_deep(image):
        raise ImageError("16-bit")
    if image.mode in ("LAB", "HSV"):
        raise ImageError("colour-space")


def _is_deep(image: Image.Image) -> bool:
    if image.format == "PNG":
        return ";16" in image.tile[0].args  # the decoder's own name of the layout, as "RGB;16B"
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) > 8  # BitsPerSample
    return False


def _photo(image: Image.Image) -> Photo:
    icc = image.info.get("icc_profile")
    gray = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        *colour, alpha = image.convert("LA" if gray else "RGBA").split()
        pixels = np.array(colour[0]) if gray else np.stack(colour, axis=2)
        return Photo(pixels, np.array(alpha), icc)
    mode = "L" if gray else "RGB"
    return Photo(np.array(image if image.mode == mode else image.convert(mode)), icc=icc)
