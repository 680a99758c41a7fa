"""Noise, neither clipped nor rounded: additive white Gaussian as the literature's, or a camera's Poisson–Gaussian.

Camera: in linear light the variance is a·x + b² (Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling").
"""

from dataclasses import dataclass, field

import numpy as np

from kgt.imaging import linear_to_srgb, srgb_to_linear, to_gray
from pipelines.degradations import values
from pipelines.degradations.values import Choice, Range, Scalar, Values, fixed, numbers, truth, when, words


@dataclass(frozen=True)
class Settings:
    """`sigma` in 1/255 for `noise=gaussian`; `a`, `b` for `noise=camera`, in linear light of the image that is degraded
    (1.0 = white): of the luma where it is `gray`. The most that is allowed is what a shard can hold: it clips beyond −1
    and 2, which is 3.4 standard deviations or more from black and white."""

    noise: Values = field(default=fixed("gaussian"), metadata=words("gaussian", "camera"))
    sigma: Values = field(default=Range(0.0, 50.0), metadata=numbers(0, 75) | when("noise", "gaussian"))
    a: Values = field(
        default=Range(1e-4, 1e-2, log=True), metadata=numbers(1e-8, 2e-2, log=True) | when("noise", "camera")
    )
    b: Values = field(
        default=Range(1e-4, 2e-2, log=True), metadata=numbers(1e-8, 2e-2, log=True) | when("noise", "camera")
    )
    gray: Values = field(default=fixed(False), metadata=truth())


EVALUATION = Settings(sigma=Choice((15.0, 25.0, 50.0)))
POSITIONED = False


def draw(settings: Settings, rng: np.random.Generator) -> dict[str, Scalar]:
    """`noise`, `gray`, and `sigma` or `a` and `b`."""
    return values.draw(settings, rng)


def prepare(clean: np.ndarray, parameters: dict[str, Scalar]) -> np.ndarray:
    """The target: round(MATLAB Y) where `gray` is asked of a colour image."""
    return to_gray(clean) if parameters["gray"] and clean.ndim == 3 else clean


def degrade(clean: np.ndarray, rng: np.random.Generator, parameters: dict[str, Scalar]) -> np.ndarray:
    """`clean` uint8 (H, W[, 3]) to float32 of the same shape, 1.0 = white, values below 0 and above 1 kept."""
    image = clean.astype(np.float32) / np.float32(255)
    noise = rng.standard_normal(clean.shape, dtype=np.float32)
    if parameters["noise"] == "gaussian":
        return image + noise * np.float32(parameters["sigma"] / 255)
    linear = srgb_to_linear(image)
    noisy = linear + noise * np.sqrt(np.float32(parameters["a"]) * linear + np.float32(parameters["b"] ** 2))
    return linear_to_srgb(noisy).astype(np.float32)


def margin(parameters: dict[str, Scalar], shape: tuple[int, int]) -> int:
    """None needed: each pixel's noise is its own."""
    return 0


def align(settings: Settings) -> int:
    """Crops start anywhere."""
    return 1
