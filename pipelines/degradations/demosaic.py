"""The Bayer mosaic of an image: one colour a pixel, RGGB or another phase, optionally with sensor noise."""

from dataclasses import dataclass, field

import numpy as np

from kgt.errors import UserError
from kgt.imaging import mosaic, to_rgb
from kgt.imaging.bayer import PATTERNS
from pipelines.degradations import values
from pipelines.degradations.values import Scalar, Values, fixed, numbers, words


@dataclass(frozen=True)
class Settings:
    """`pattern`: the colours of the top left 2×2 pixels, row by row; `sigma`: Gaussian noise in 1/255."""

    pattern: Values = field(default=fixed("rggb"), metadata=words(*PATTERNS))
    sigma: Values = field(default=fixed(0.0), metadata=numbers(0, 255))


EVALUATION = Settings()
POSITIONED = False


def draw(settings: Settings, rng: np.random.Generator) -> dict[str, Scalar]:
    """`pattern` and `sigma`."""
    return values.draw(settings, rng)


def prepare(clean: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The target: the image as RGB."""
    return to_rgb(clean)


def degrade(clean: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """`clean` uint8 (H, W, 3) to its mosaic, uint8 (H, W)."""
    samples = mosaic(clean, parameters["pattern"])
    if parameters["sigma"] == 0:
        return samples
    noisy = samples + parameters["sigma"] * rng.standard_normal(samples.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def check_model_takes(settings: Settings) -> None:
    """Raises UserError if there are mosaics of another pattern than RGGB, the one that models interpolate inside."""
    if others := [pattern for pattern in settings.pattern.options if pattern != "rggb"]:
        raise UserError(f"models take mosaics of pattern=rggb alone, not {others[0]}: use tasks.demosaic.pattern=rggb")


def margin(parameters: dict[str, Scalar], shape: tuple[int, int]) -> int:
    """None needed: a pixel's sample is its own."""
    return 0


def align(settings: Settings) -> int:
    """Crops start on a 2×2 cell, so that every one has the same phase."""
    return 2
