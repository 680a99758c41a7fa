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
_DEPTH = ("horizon", "slope")
_OF_KIND = {
    "rain": ("angle", "airlight", "fog", "streaks", *_DEPTH),
    "snow": ("angle", "fog", "flakes", "white", *_DEPTH),
    "raindrop": ("drops", "defocus", "bend", "sky", "sun_y", "sun_x"),
}


@dataclass(frozen=True)
class Settings:
    """`kind` is a choice, with weights where some are wanted more: `kind={rain: 2, snow: 1, raindrop: 1}`.

    rain and snow: `angle` of the fall in degrees from the vertical; `fog`: β at the farthest depth (snow takes a fifth
    of it); `horizon` of the depth, in heights of the photograph below its top; `slope`: the ground at the photograph's
    foot is 1 + `slope` times as near. rain: `airlight`, the veil's gray level, white 1; `streaks`: the rain layers'
    standard deviation in 1/255, before the veil. snow: `flakes`, the mean share of the picture that snow covers;
    `white`: its gray level.

    raindrop: `drops`, how many on a whole frame, the mean of a Poisson distribution; `defocus`: of the drops, σ in
    pixels at 720 px width; `bend`: displacement of the view by a normal in the glass's plane, in radii (× sin 50° > 1
    flips it); `sky`: stray light in a drop, linear, white 1; `sun_y`, `sun_x`: the surface normal that mirrors the sun,
    down and right.
    """

    kind: Values = field(default=Choice(("rain", "snow", "raindrop")), metadata=words(*KINDS))
    angle: Values = field(default=Range(-30.0, 30.0), metadata=numbers(-80, 80))
    airlight: Values = field(default=Range(0.25, 0.8), metadata=numbers(0, 1))
    fog: Values = field(default=Range(0.6, 2.3), metadata=numbers(0, 10))
    horizon: Values = field(default=Range(0.1, 0.5), metadata=numbers(0, 0.9))
    slope: Values = field(default=Range(1.5, 4.0), metadata=numbers(0, 100))
    streaks: Values = field(default=Range(8.0, 20.0), metadata=numbers(0, 255))
    flakes: Values = field(default=Range(0.02, 0.15), metadata=numbers(0, 0.9))
    white: Values = field(default=Range(0.85, 1.0), metadata=numbers(0, 1))
    drops: Values = field(default=Range(10, 200, whole=True), metadata=numbers(0, 5000, whole=True))
    defocus: Values = field(default=Range(2.0, 8.0), metadata=numbers(0, 20))
    bend: Values = field(default=Range(2.0, 5.0), metadata=numbers(0, 10))
    sky: Values = field(default=Range(0.05, 0.3), metadata=numbers(0, 1))
    sun_y: Values = field(default=Range(-0.6, -0.3), metadata=numbers(-1, 1))
    sun_x: Values = field(default=Range(-0.4, 0.4), metadata=numbers(-1, 1))


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
    inside = frame.inside(clean, margin(parameters, (frame.frame_height, frame.frame_width)))
    weathered = KINDS[parameters["kind"]].render(clean, rng, parameters, frame, inside)
    degraded = clean.copy()
    degraded[inside] = np.rint(255 * weathered).clip(0, 255)
    return degraded


def margin(parameters: dict[str, Scalar], shape: tuple[int, int]) -> int:
    """Surroundings that drops and the depth's smoothing show."""
    return math.ceil(KINDS[parameters["kind"]].reach(parameters) * Frame(*shape).unit(720, 480))


def align(settings: Settings) -> int:
    """Crops start anywhere."""
    return 1
