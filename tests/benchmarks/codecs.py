"""The codecs that a shard could use: milliseconds to encode and decode, and kilobytes, of one image.

    python tests/benchmarks/codecs.py --crop 256

Lossless all, and each image is checked to come back. The images are crops of the built-in photographs: clean (`rgb`,
what WebP is chosen for), a mosaic of it (`plane`), and 16-bit fixed point noise of σ 25, three planes stacked
(`noise16`); raw TIFF is chosen for both. Figures are means over the photographs of medians over `--runs`.
"""

import io
import statistics
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import cv2
import numpy as np
from PIL import Image

from kgt.errors import UserError
from kgt.imaging import mosaic, read_image, to_rgb
from pipelines.sample import sample_photographs
from tests.benchmarks.harness import arguments, measure, report, start

Codec = tuple[Callable[[np.ndarray], bytes], Callable[[bytes], np.ndarray]]


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--crop", type=int, default=256, help="side of the images, pixels")
    parser.add_argument("--runs", type=int, default=7, help="calls timed of each")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    photographs = [to_rgb(read_image(path)) for path in sample_photographs("train")]
    crops = [image[: given.crop, : given.crop] for image in photographs if min(image.shape[:2]) >= given.crop]
    if not crops:
        raise UserError(f"--crop {given.crop}: no built-in photograph is as large")
    rng = np.random.default_rng(0)
    kinds = {
        "rgb": crops,
        "plane": [mosaic(crop, "rggb") for crop in crops],
        "noise16": [_fixed_point(crop / 255 + 25 / 255 * rng.standard_normal(crop.shape)) for crop in crops],
    }
    rows = []
    for kind, images in kinds.items():
        for name, (encode, decode) in _codecs(kind).items():
            figures = [_figures(image, encode, decode, given.runs) for image in images]
            means = [statistics.mean(column) for column in zip(*figures, strict=True)]
            columns = ("encode, ms", "decode, ms", "KB")
            rows.append({"image": kind, "codec": name, **dict(zip(columns, means, strict=True))})
    report("lossless codecs", rows, path=given.json, packages=("numpy", "pillow", "opencv-python-headless"))


def _figures(
    image: np.ndarray, encode: Callable[[np.ndarray], bytes], decode: Callable[[bytes], np.ndarray], runs: int
) -> tuple[float, float, float]:
    image = np.ascontiguousarray(image)
    data = encode(image)
    assert np.array_equal(decode(data), image)
    encoding = measure(lambda: encode(image), runs=runs)
    decoding = measure(lambda: decode(data), runs=runs)
    return 1e3 * encoding.median, 1e3 * decoding.median, len(data) / 1000


def _codecs(kind: str) -> dict[str, Codec]:
    found = {
        "TIFF, raw": _pillow("TIFF"),
        "PNG, level 1": _pillow("PNG", compress_level=1),
        "PNG, level 6": _pillow("PNG", compress_level=6),
        "PNG, level 1, OpenCV": _opencv(".png", cv2.IMWRITE_PNG_COMPRESSION, 1),
        "npy": (_npy, lambda data: np.load(io.BytesIO(data), allow_pickle=False)),
        "npy, zlib 1": (
            lambda image: zlib.compress(_npy(image), 1),
            lambda data: np.load(io.BytesIO(zlib.decompress(data)), allow_pickle=False),
        ),
    }
    if kind == "rgb":
        for method, quality in ((0, 0), (0, 50), (4, 50)):
            name = f"WebP, method {method}, quality {quality}"
            found[name] = _pillow("WEBP", lossless=True, method=method, quality=quality)
        found["WebP, OpenCV"] = _opencv(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    return found


def _pillow(name: str, **options: object) -> Codec:
    def encode(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, name, **options)
        return file.getvalue()

    return encode, lambda data: np.asarray(Image.open(io.BytesIO(data)))


def _opencv(suffix: str, *options: int) -> Codec:
    def encode(image: np.ndarray) -> bytes:
        return cv2.imencode(suffix, image, list(options))[1].tobytes()

    return encode, lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def _npy(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def _fixed_point(image: np.ndarray) -> np.ndarray:
    fixed = np.rint((np.clip(image, -1, 2) + 1) * (65535 / 3)).astype(np.uint16)
    return fixed.transpose(2, 0, 1).reshape(-1, image.shape[1])


if __name__ == "__main__":
    start(main)
