"""How much there is to see in an image, and how sharp it is: from its luma, in a few passes over the pixels."""

import cv2
import numpy as np

BLOCK = 32  # pixels of a block's side
_FLAT = 2  # of 255: a block whose luma deviates less from its mean shows nothing


def luma_of(image: np.ndarray) -> np.ndarray:
    """Rounded BT.601 luma of uint8 (H, W, 3) or (H, W): uint8 (H, W), 0..255."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def detail_map(luma: np.ndarray) -> np.ndarray:
    """Which blocks of uint8 (H, W) are not flat: bool (⌈H / 32⌉, ⌈W / 32⌉), those at the right and bottom cut off.

    A block is flat if the standard deviation of its luma is below 2/255.
    """
    edges = np.arange(0, luma.shape[1], BLOCK)
    rows = []
    for top in range(0, luma.shape[0], BLOCK):
        band = luma[top : top + BLOCK]
        total, squares = (
            np.add.reduceat(cv2.reduce(band, 0, kind, dtype=cv2.CV_32S)[0], edges, dtype=np.int64)
            for kind in (cv2.REDUCE_SUM, cv2.REDUCE_SUM2)
        )
        count = np.diff(edges, append=luma.shape[1]) * len(band)
        rows.append(count * squares - total**2 >= (_FLAT * count) ** 2)
    return np.stack(rows)


def pack(detail: np.ndarray) -> bytes:
    """A detail map as bits, row by row (`np.packbits`); empty if no block is flat, as in most photographs."""
    return b"" if detail.all() else np.packbits(detail).tobytes()


def unpack(packed: bytes, height: int, width: int) -> np.ndarray:
    """The detail map, bool (⌈height / 32⌉, ⌈width / 32⌉), of an image of that size in pixels."""
    shape = -(-height // BLOCK), -(-width // BLOCK)
    if not packed:
        return np.ones(shape, bool)
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=shape[0] * shape[1]).reshape(shape).astype(bool)


def sharpness(luma: np.ndarray) -> float:
    """The variance of the Laplacian (4 neighbours) of uint8 (H, W), in squared units of 1/255; low where it is blurred.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy". It depends on what is shown and on its
    size in pixels, so it tells the worst of similar images rather than the blurred of all.
    """
    _, deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S, ksize=1))
    return float(deviation[0, 0]) ** 2
