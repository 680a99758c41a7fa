"""Super-resolution: MATLAB's bicubic downsampling with antialiasing, ×2 ×3 ×4, the pairs at their own sizes."""

import math
from dataclasses import dataclass, field

import numpy as np

from kgt.imaging import crop_to_multiple, imresize, to_rgb
from pipelines.degradations import values
from pipelines.degradations.values import Choice, Scalar, Values, numbers


@dataclass(frozen=True)
class Settings:
    """`scale`: how many times smaller the degraded image is."""

    scale: Values = field(default=Choice((2,)), metadata=numbers(2, 4, whole=True))


EVALUATION = Settings(scale=Choice((2, 3, 4)))
POSITIONED = False


def draw(settings: Settings, rng: np.random.Generator) -> dict[str, Scalar]:
    """`scale`."""
    return values.draw(settings, rng)


def prepare(clean: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The target: the image as RGB, cropped to a multiple of the scale."""
    return crop_to_multiple(to_rgb(clean), parameters["scale"])


def degrade(clean: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """`clean` uint8 (H, W, 3), sides multiples of the scale, to uint8 (H / scale, W / scale, 3)."""
    return imresize(clean, 1 / parameters["scale"])


def margin(parameters: dict[str, Scalar], shape: tuple[int, int]) -> int:
    """Half the width of the antialiasing kernel, 4 pixels of the small image wide."""
    return 2 * parameters["scale"]


def align(settings: Settings) -> int:
    """Crops start on a pixel of the small image, whichever scale is drawn."""
    return math.lcm(*scales(settings))


def scales(settings: Settings) -> tuple[int, ...]:
    """All that may be drawn."""
    scale = settings.scale
    return scale.options if isinstance(scale, Choice) else tuple(range(int(scale.low), int(scale.high) + 1))
