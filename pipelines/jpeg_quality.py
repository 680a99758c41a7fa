"""How strongly a JPEG file is compressed, from its quantisation table: a pair's clean image should not be."""

import io

import numpy as np
from PIL import Image

# The luminance table of ITU T.81, annex K.1, which libjpeg scales by its quality.
_STANDARD = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
).ravel()


def jpeg_quality(data: bytes) -> int | None:
    """The quality, 1–100 on libjpeg's scale, at which a file was compressed the last time; None if it is no JPEG.

    Of files by other encoders, the quality at which libjpeg's table is most like theirs.
    """
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None)
    if not tables:
        return None
    table = np.array(tables[min(tables)])
    free = table < 255  # coarser steps are cut to that
    scale = 100 * float(np.median(table[free] / _STANDARD[free])) if free.any() else 5000.0
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return min(100, max(1, round(quality)))
