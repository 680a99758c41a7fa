"""The leak guard: how many test images it finds in which disguise, what it takes for them by mistake, and how fast.

    python tests/benchmarks/leaks.py /data/CBSD68 --others /data/BSDS500_train /data/BSDS500_test
    python tests/benchmarks/leaks.py /data/Kodak24

The images of the folder are the guard and, disguised, the sources. `found`: those taken for what they are; `wrong`:
those taken for another. `--others`: photographs that are not among them; with `--crowd N` the guard also holds the
first N of those (which then are not looked for), to see what a larger guard costs.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import cv2
import numpy as np

from kgt.imaging import list_images, read_image
from pipelines.detail import luma_of
from pipelines.leaks import Guard, guarded_view
from tests.benchmarks.harness import arguments, measure, report, start, timing

Disguise = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def jpeg(luma: np.ndarray, quality: int) -> np.ndarray:
    """Compressed and decoded again."""
    encoded = cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


def resized(luma: np.ndarray, factor: float) -> np.ndarray:
    """Smaller by area averaging, larger by bicubic interpolation."""
    return cv2.resize(luma, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def cropped(luma: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A place drawn at random, with that share of the area and the same shape."""
    height, width = (int(side * share**0.5) for side in luma.shape)
    top, left = (int(rng.integers(0, full - side + 1)) for full, side in zip(luma.shape, (height, width), strict=True))
    return luma[top : top + height, left : left + width]


def noisy(luma: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise."""
    return np.clip(luma + rng.normal(0, sigma, luma.shape), 0, 255).astype(np.uint8)


DISGUISES: dict[str, Disguise] = {
    "same": lambda luma, rng: luma,
    "JPEG quality 95": lambda luma, rng: jpeg(luma, 95),
    "JPEG quality 30": lambda luma, rng: jpeg(luma, 30),
    "resized 0.5": lambda luma, rng: resized(luma, 0.5),
    "resized 1.5": lambda luma, rng: resized(luma, 1.5),
    "brighter, more contrast": lambda luma, rng: np.clip(luma * 1.2 + 15, 0, 255).astype(np.uint8),
    "darker, gamma 1.4": lambda luma, rng: np.round(230 * (luma / 255) ** 1.4).astype(np.uint8),
    "noise, sigma 25": lambda luma, rng: noisy(luma, 25, rng),
    "crop 50 %": lambda luma, rng: cropped(luma, 0.5, rng),
    "crop 25 %": lambda luma, rng: cropped(luma, 0.25, rng),
    "crop 15 %": lambda luma, rng: cropped(luma, 0.15, rng),
    "crop 50 % + quality 30": lambda luma, rng: jpeg(cropped(luma, 0.5, rng), 30),
    "crop 25 % + quality 30": lambda luma, rng: jpeg(cropped(luma, 0.25, rng), 30),
    "crop 25 % + 0.5 + quality 50": lambda luma, rng: jpeg(resized(cropped(luma, 0.25, rng), 0.5), 50),
    "resized 0.5 + quality 30": lambda luma, rng: jpeg(resized(luma, 0.5), 30),
    "mirrored": lambda luma, rng: luma[:, ::-1],
}


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the guarded images")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="folders of photographs that are not there")
    parser.add_argument("--crowd", type=int, default=0, help="how many of the others are guarded as well")
    given = parser.parse_args()

    cv2.setNumThreads(1)  # as in a Ray task
    guarded = _read([given.folder])
    others = _read(given.others)
    crowd = dict(list(others.items())[: given.crowd])
    index = guarded | crowd
    guard = Guard(list(index), [guarded_view(luma) for luma in index.values()])
    rows = [_recall(name, disguise, guarded, guard) for name, disguise in DISGUISES.items()]
    if rest := {name: luma for name, luma in others.items() if name not in crowd}:
        rows.append(_row("other photographs", rest, guard))
    title = f"leak guard, {len(index)} images of {given.folder.name}" + (f" and {len(crowd)} others" if crowd else "")
    report(title, rows, path=given.json, packages=("opencv-python-headless", "numpy"))


def _read(folders: Sequence[Path]) -> dict[str, np.ndarray]:
    paths = [path for folder in folders for path in list_images(folder)]
    return {f"{path.parent.name}/{path.name}": luma_of(read_image(path)) for path in paths}


def _recall(name: str, disguise: Disguise, images: dict[str, np.ndarray], guard: Guard) -> dict[str, object]:
    rng = np.random.default_rng(0)
    return _row(name, {key: disguise(luma, rng) for key, luma in images.items()}, guard)


def _row(name: str, images: dict[str, np.ndarray], guard: Guard) -> dict[str, object]:
    answers, seconds = [], []
    for luma in images.values():
        seconds.append(measure(lambda luma=luma: answers.append(guard.find(luma)), runs=1, warmup=0).median)
    found = sum(answer == key for key, answer in zip(images, answers, strict=True))
    wrong = sum(answer not in (key, None) for key, answer in zip(images, answers, strict=True))
    return {
        "sources": name,
        "images": len(images),
        "found": found,
        "wrong": wrong,
        "per image": timing(seconds),
    }


if __name__ == "__main__":
    start(main)
