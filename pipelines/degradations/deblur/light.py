"""From an image to the values that an exposure averages, and from their average to the blurred image."""

import cv2
import numpy as np

from kgt.imaging import linear_to_srgb, srgb_to_linear
from pipelines.degradations.values import Scalar

_LEVELS = np.arange(256, dtype=np.float32)
_ENCODED = _LEVELS / 255
_LINEAR = srgb_to_linear(_ENCODED)
# How likely white of that level hides a brighter light. Lower levels are what they are: brightened here and not in the
# target, they would teach to darken what never moved; white stays white in both.
_CLIPPED = np.clip((_LEVELS - 253) / 2, 0, 1)


def gather(image: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The light of an image uint8 (H, W, 3) in the drawn `space`: float32 (H, W, 4), white 1, the last plane unused.

    In linear light what the photograph clipped in all three colours is `highlight` times as bright. (OpenCV is several
    times as fast with four planes as with three.)
    """
    rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    if parameters["space"] == "encoded":
        return cv2.LUT(rgba, _ENCODED)
    light = cv2.LUT(rgba, _LINEAR)
    if parameters["highlight"] > 1:
        darkest = np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2])
        white = darkest > 253
        light[white] *= (1 + np.float32(parameters["highlight"] - 1) * _CLIPPED)[darkest[white]][:, None]
    return light


def develop(average: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """The sensor's end: what `gather` gave, averaged (H, W, 4), with its noise added, encoded: uint8 (H, W, 3)."""
    light = np.ascontiguousarray(average[..., :3])
    if parameters["space"] == "encoded":
        light = srgb_to_linear(light)
    light = np.minimum(light, 1)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light += noise * np.sqrt(np.float32(parameters["shot"]) * light + np.float32(parameters["read"] ** 2))
    return np.rint(255 * linear_to_srgb(light)).clip(0, 255).astype(np.uint8)
