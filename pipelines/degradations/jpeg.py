"""JPEG compression by Pillow's libjpeg: 4:2:0 colour or gray, integer quality, optionally compressed twice.

The published rows (LIVE1, classic5) come out to their last digit with this encoder and subsampling; an image is
compressed whole and then cropped, or, the same to the bit, on a region of whole 16×16 blocks.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from kgt.imaging import to_gray
from pipelines.degradations import values
from pipelines.degradations.values import Choice, Range, Scalar, Values, fixed, numbers, truth

BLOCK = 16  # a 4:2:0 minimum coded unit, pixels


@dataclass(frozen=True)
class Settings:
    """`double` is the share of images compressed twice, the first time at `first_quality` on a grid 1–7 px away."""

    quality: Values = field(default=Range(10, 40, whole=True), metadata=numbers(1, 100, whole=True))
    gray: Values = field(default=fixed(False), metadata=truth())
    double: Values = field(default=fixed(0.0), metadata=numbers(0, 1))
    first_quality: Values = field(default=Range(10, 40, whole=True), metadata=numbers(1, 100, whole=True))


EVALUATION = Settings(quality=Choice((10, 20, 30, 40)))
POSITIONED = False


def draw(settings: Settings, rng: np.random.Generator) -> dict[str, Scalar]:
    """`quality`, `gray`, and for a twice compressed image `first_quality`, `shift_y`, `shift_x` of the first grid."""
    parameters = values.draw(settings, rng)
    share = parameters.pop("double")
    first_quality = parameters.pop("first_quality")
    if share > 0 and rng.random() < share:
        shift_y, shift_x = (int(s) for s in rng.integers(1, 8, size=2))
        parameters |= {"first_quality": first_quality, "shift_y": shift_y, "shift_x": shift_x}
    return parameters


def prepare(clean: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The target: round(MATLAB Y) where `gray` is asked of a colour image."""
    return to_gray(clean) if parameters["gray"] and clean.ndim == 3 else clean


def degrade(clean: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """`clean` uint8 (H, W, 3) or (H, W), compressed and decoded: uint8 of the same shape."""
    if "first_quality" in parameters:
        shift_y, shift_x = parameters["shift_y"], parameters["shift_x"]
        padding = [(shift_y, 0), (shift_x, 0)] + [(0, 0)] * (clean.ndim - 2)
        clean = _compress(np.pad(clean, padding, mode="edge"), parameters["first_quality"])[shift_y:, shift_x:]
    return _compress(clean, parameters["quality"])


def margin(parameters: dict[str, Scalar], shape: tuple[int, int]) -> int:
    """One block: decoding interpolates chroma across block borders. The first grid of two needs another."""
    return 2 * BLOCK if "first_quality" in parameters else BLOCK


def align(settings: Settings) -> int:
    """Regions start on the block grid."""
    return BLOCK


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))
