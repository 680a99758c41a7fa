"""Heavy rain (Li, Cheong & Tan 2019): I = t ⊙ (J + Σ Sᵢ) + (1 − t) ⊙ A, in encoded values as its published pairs are.

The transmission t = exp(−β d) falls with the depth d; streak layers S₁…S₃ go from near (long, wide, few) to far.
"""

import cv2
import numpy as np

from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar
from pipelines.degradations.weather import fields

# Length and width in pixels at 720 px width, streaks a pixel there, brightness: near, middle, far.
_LAYERS = ((70, 1.6, 0.002, 1.0), (42, 1.2, 0.008, 0.7), (24, 0.9, 0.02, 0.5))
_JITTER = (-3.0, 0.0, 3.0)  # degrees about the common wind


def render(image: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar], frame: Frame) -> np.ndarray:
    """`image` float32 (H, W, 3), encoded, 1.0 = white, to the same in the rain, unclipped."""
    layers = streaks(rng, image.shape[:2], parameters["angle"], frame.unit(720, 480))
    layers *= np.float32(parameters["streaks"] / 255)
    transmission = np.exp(-np.float32(parameters["fog"]) * depth(image, rng, frame))[..., None]
    return transmission * (image + layers[..., None]) + (1 - transmission) * np.float32(parameters["airlight"])


def streaks(rng: np.random.Generator, shape: tuple[int, int], angle: float, unit: float) -> np.ndarray:
    """The three layers' sum: (H, W) ≥ 0 of standard deviation about 1. `unit` is the pixel of 720 px width."""
    reach = round(_LAYERS[0][0] * unit)
    canvas = (shape[0] + 2 * reach, shape[1] + 2 * reach)
    total = np.zeros(canvas, np.float32)
    for length, width, density, brightness in _LAYERS:
        for jitter in _JITTER:
            fallen = fields.seeds(rng, canvas, density / len(_JITTER) / unit**2)
            exposure = rng.uniform(0.7, 1.3)
            kernel = fields.streak_kernel(length * exposure * unit, max(width * unit, 0.7), angle + jitter)
            total += brightness / exposure * cv2.filter2D(fallen, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    total = np.maximum(total[reach:-reach, reach:-reach], 0)  # filter2D by Fourier transform leaves −1e-16
    return total / max(float(total.std()), 1e-6)


def depth(image: np.ndarray, rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """A plausible relative depth of a photograph, about 0.3 (near) to 1: (H, W).

    A ground plane that rises to a random horizon, and smooth variation that follows the image's edges.
    """
    height, width = image.shape[:2]
    horizon = rng.uniform(0.1, 0.5) * frame.frame_height
    rows = frame.frame_top + np.arange(height, dtype=np.float32)
    nearness = np.clip((rows - horizon) / (frame.frame_height - horizon), 0, 1)
    plane = np.broadcast_to((1 / (1 + 2.2 * nearness))[:, None], (height, width))
    unit = frame.unit(720, 480)
    uneven = fields.smooth_noise(rng, (height, width), 120 * unit)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    smooth = fields.guided(plane + 0.12 * uneven, gray, max(1, round(16 * unit)), 1e-2)
    return np.clip(smooth, 0.2, 1.2)
