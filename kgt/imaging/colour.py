"""Colour: the sRGB curve and MATLAB's BT.601 luma."""

import numpy as np

# Rec. 601 studio swing as in MATLAB's rgb2ycbcr: black is 16, white 235.
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
_LUMA_BLACK = 16.0


def srgb_to_linear(image: np.ndarray) -> np.ndarray:
    """Encoded values to linear light (IEC 61966-2-1), floats with 1.0 for white, same shape and type.

    Negative values go through the curve's linear part and values above 1 through its power.
    """
    power = ((np.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4
    return np.where(image <= 0.04045, image / 12.92, power)


def linear_to_srgb(image: np.ndarray) -> np.ndarray:
    """Linear light to encoded values, the inverse of `srgb_to_linear`."""
    power = 1.055 * np.maximum(image, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(image <= 0.0031308, image * 12.92, power)


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """MATLAB's luma of an image of range 0..255: (H, W) float64 in 16..235, not rounded. Gray counts as its replica."""
    image = np.asarray(image, dtype=np.float64)
    if image.ndim == 2:
        return _LUMA_BLACK + image * _LUMA.sum()
    return _LUMA_BLACK + image @ _LUMA


def to_gray(image: np.ndarray) -> np.ndarray:
    """The gray image of the JPEG literature: the rounded luma, uint8 (H, W). Gray images pass through."""
    return image if image.ndim == 2 else np.floor(rgb_to_y(image) + 0.5).astype(np.uint8)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3): gray replicated; colour passes through."""
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
