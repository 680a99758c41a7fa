"""Heavy rain (Li, Cheong & Tan 2019): I = t ⊙ (J + Σ Sᵢ) + (1 − t) ⊙ A, in encoded values as its published pairs are.

The transmission t = exp(−β d) falls with the depth d; streak layers S₁…S₃ go from near (long, wide, few) to far.
"""

import numpy as np

from pipelines.degradations.frame import WHOLE, Frame
from pipelines.degradations.values import Scalar
from pipelines.degradations.weather.depth import REACH, plausible_depth
from pipelines.degradations.weather.streaks import streaks


def reach(parameters: dict[str, Scalar]) -> float:
    """Surroundings that the result depends on, in pixels at 720 px width: the depth's."""
    return REACH


def render(
    clean: np.ndarray,
    rng: np.random.Generator,
    parameters: dict[str, Scalar],
    frame: Frame,
    inside: tuple[slice, slice] = WHOLE,
    depth: np.ndarray | None = None,
) -> np.ndarray:
    """`clean` uint8 (H, W, 3), its part `inside` in the rain: float32, encoded, 1.0 = white, unclipped.

    `depth`: float32 (H, W), 1.0 where the fog is β deep; none: a plausible one is drawn.
    """
    image = clean.astype(np.float32) / np.float32(255)
    if depth is None:
        depth = plausible_depth(image, rng, frame, parameters["horizon"], parameters["slope"])
    scene = image[inside]
    layers = streaks(rng, scene.shape[:2], parameters["angle"], frame.unit(720, 480))
    layers *= np.float32(parameters["streaks"] / 255)
    return veil(scene + layers[..., None], depth[inside], parameters["fog"], parameters["airlight"])


def veil(scene: np.ndarray, depth: np.ndarray, fog: float, airlight: float) -> np.ndarray:
    """t ⊙ scene + (1 − t) ⊙ A with t = exp(−β d): `scene` (H, W, 3), `depth` (H, W), `fog` β, `airlight` A."""
    transmission = np.exp(-np.float32(fog) * depth)[..., None]
    return np.float32(airlight) + transmission * (scene - np.float32(airlight))
