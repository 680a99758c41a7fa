"""Motion blur: the light of all moments of an exposure, added up.

`blur=shake` turns the camera along a random trajectory, with an object that moves by itself in some pairs;
`blur=kernel` convolves with given kernels; `blur=video` averages consecutive frames that were recorded sharp.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kgt.errors import UserError
from kgt.imaging import to_rgb
from pipelines.degradations import values
from pipelines.degradations.deblur import kernels, light, moving, shake, trajectory
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Choice, Range, Scalar, Values, fixed, numbers, special, when, words

_SHAKE, _KERNEL, _LINEAR = when("blur", "shake"), when("blur", "kernel"), when("space", "linear")
_OBJECT = ("object_path", "object_size")


@dataclass(frozen=True)
class Settings:
    """`blur`: shake, kernel or video.

    shake: `path`, what the farthest moving pixel travels, in pixels of a 1280×720 frame; `focal`, in image widths;
    `object`, the share of pairs with an object that moves by itself, by `object_path` (pixels of a 1280×720 frame),
    `object_size` its mean diameter in heights of the frame. kernel: `kernels`, a file or folder of them.

    `space`: whether encoded values are averaged, as GoPro's published pairs were made, or linear light, as a sensor
    does; then what the photograph clipped to white shines up to `highlight` times as bright. `shot` and `read` are
    the noise of the exposure: variance shot·x + read² in linear light.
    """

    blur: Values = field(default=fixed("shake"), metadata=words("shake", "kernel", "video"))
    path: Values = field(default=Range(5.0, 60.0), metadata=numbers(0.0, 120) | _SHAKE)
    focal: Values = field(default=Range(1.0, 1.3), metadata=numbers(0.3, 20) | _SHAKE)
    object: Values = field(default=fixed(0.25), metadata=numbers(0, 1) | _SHAKE)
    object_path: Values = field(default=Range(5.0, 60.0), metadata=numbers(0.0, 120) | _SHAKE)
    object_size: Values = field(default=Range(0.2, 0.6), metadata=numbers(0.01, 2) | _SHAKE)
    kernels: Values = field(default=fixed(""), metadata=special(kernels.read) | _KERNEL)
    space: Values = field(default=Choice(("encoded", "linear")), metadata=words("encoded", "linear"))
    highlight: Values = field(default=Range(1.0, 4.0), metadata=numbers(1, 100) | _LINEAR)
    shot: Values = field(default=Range(1e-6, 1e-4, log=True), metadata=numbers(1e-9, 1, log=True))
    read: Values = field(default=Range(1e-4, 2e-3, log=True), metadata=numbers(1e-9, 1, log=True))


EVALUATION = Settings(space=fixed("encoded"))
POSITIONED = True


def draw(settings: Settings, rng: np.random.Generator) -> dict[str, Scalar]:
    """What counts for the drawn `blur`; `highlight` in linear light only.

    With an object also its direction `object_angle` (degrees clockwise from the right) and the place of its middle,
    `object_x` and `object_y`, in shares of the frame's sides. Raises UserError for `blur=kernel` without kernels.
    """
    parameters = values.draw(settings, rng)
    if parameters.get("kernels") == "":
        raise UserError("tasks.deblur.blur=kernel: say which with tasks.deblur.kernels=FILE (.npy, .npz) or FOLDER")
    if "object" in parameters:
        share = parameters.pop("object")
        own = {name: parameters.pop(name) for name in _OBJECT}
        if share > 0 and rng.random() < share:
            angle, x, y = rng.uniform(-180, 180), *rng.random(2)
            parameters |= own | {"object_angle": float(angle), "object_x": float(x), "object_y": float(y)}
    return parameters


def prepare(clean: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The target: the image as RGB."""
    return to_rgb(clean)


def degrade(clean: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """`clean` uint8 (H, W, 3) to the blurred uint8 of the same shape; beyond the photograph's border it is mirrored.

    Raises UserError for `blur=video`: see `average`.
    """
    if parameters["blur"] == "video":
        raise UserError("tasks.deblur.blur=video averages the frames of a video: say how many with frames=")
    frame = Frame.of(clean, parameters)
    inside = frame.inside(clean, margin(parameters, (frame.frame_height, frame.frame_width)))
    if parameters["blur"] == "kernel":
        mean = kernels.convolve(light.gather(clean, parameters), kernels.decode(parameters["kernels"]))[inside]
    else:
        mean = shake.render(clean, rng, frame, inside, parameters)
    degraded = clean.copy()
    degraded[inside] = light.develop(mean, rng, parameters)
    return degraded


def average(frames: Sequence[np.ndarray], rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """The exposure that spans sharp `frames`, uint8 (H, W, 3) each, evenly spaced in time: uint8 of the same shape.

    Their mean in the drawn `space`, with noise, as in `degrade`. Raises UserError on frames of different sizes.
    """
    total = light.gather(frames[0], parameters)
    for frame in frames[1:]:
        if frame.shape != frames[0].shape:
            sizes = [f"{height}x{width}" for height, width, _ in (frames[0].shape, frame.shape)]
            raise UserError(f"frames of one size are averaged, not of {sizes[0]} and {sizes[1]}")
        total += light.gather(frame, parameters)
    return light.develop(total / np.float32(len(frames)), rng, parameters)


def margin(parameters: dict[str, Scalar], shape: tuple[int, int]) -> int:
    """The longest path of any pixel or half the kernel, and the pixels beyond it that interpolation reads."""
    if parameters["blur"] == "video":
        return 0
    if parameters["blur"] == "kernel":
        return max(kernels.shape_of(parameters["kernels"])) // 2 + 1
    frame = Frame(*shape)
    reach = parameters["path"] * frame.unit(1280, 720)
    if "object_path" in parameters:
        reach += moving.margin(frame, parameters["object_path"])
    return math.ceil(reach * (1 + 4 / trajectory.MOST)) + 2


def align(settings: Settings) -> int:
    """Crops start anywhere."""
    return 1
