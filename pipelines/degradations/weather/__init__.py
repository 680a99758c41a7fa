"""Adverse weather: rain with its veil, falling snow, or raindrops on the lens; which of them is drawn for each pair."""

import math
from dataclasses import dataclass, field

import numpy as np

from kgt.imaging import to_rgb
from pipelines.degradations import values
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Choice, Range, Scalar, Values, numbers, words
from pipelines.degradations.weather import rain, raindrop, snow

KINDS = {"rain": rain, "snow": snow, "raindrop": raindrop}
_OF_KIND = {
    "rain": ("angle", "airlight", "fog", "streaks"),
    "snow": ("angle", "fog", "flakes"),
    "raindrop": ("drops", "defocus"),
}


@dataclass(frozen=True)
class Settings:
    """`kind` is a choice, with weights where some are wanted more: `kind={rain: 2, snow: 1, raindrop: 1}`.

    `angle` of the fall in degrees from the vertical; `airlight`: the veil's gray level, white 1; `fog`: β at the
    farthest depth (rain; snow takes a fifth of it); `streaks`: the rain layers' standard deviation in 1/255, before
    the veil; `flakes`: the mean share of the picture that snow covers; `drops`: how many on a whole frame; `defocus`:
    of the drops, pixels at 720 px width.
    """

    kind: Values = field(default=Choice(("rain", "snow", "raindrop")), metadata=words(*KINDS))
    angle: Values = field(default=Range(-30.0, 30.0), metadata=numbers(-80, 80))
    airlight: Values = field(default=Range(0.25, 0.8), metadata=numbers(0, 1))
    fog: Values = field(default=Range(0.6, 2.3), metadata=numbers(0, 10))
    streaks: Values = field(default=Range(8.0, 20.0), metadata=numbers(0, 255))
    flakes: Values = field(default=Range(0.02, 0.15), metadata=numbers(0, 0.9))
    drops: Values = field(default=Range(10, 200, whole=True), metadata=numbers(0, 5000, whole=True))
    defocus: Values = field(default=Range(2.0, 8.0), metadata=numbers(0, 50))


EVALUATION = Settings()
POSITIONED = True


def draw(settings: Settings, rng: np.random.Generator) -> dict[str, Scalar]:
    """`kind` and the parameters that belong to it."""
    parameters = values.draw(settings, rng)
    return {name: parameters[name] for name in ("kind", *_OF_KIND[parameters["kind"]])}


def prepare(clean: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The target: the image as RGB."""
    return to_rgb(clean)


def degrade(clean: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """`clean` uint8 (H, W, 3) to uint8 of the same shape."""
    frame = Frame.of(clean, parameters)
    image = clean.astype(np.float32) / np.float32(255)
    weathered = KINDS[parameters["kind"]].render(image, rng, parameters, frame)
    return np.rint(255 * weathered).clip(0, 255).astype(np.uint8)


def margin(parameters: dict[str, Scalar], shape: tuple[int, int]) -> int:
    """Surroundings that drops and smoothing show; a large drop's farthest view is mirrored from within them."""
    return math.ceil(64 * Frame(*shape).unit(720, 480))


def align(settings: Settings) -> int:
    """Crops start anywhere."""
    return 1
