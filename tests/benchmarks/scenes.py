"""Pairs and frames that show different scenes: how many are missed, and how many good ones are refused by mistake.

    KGT_DATA=DIR python tests/benchmarks/scenes.py --every 2

Every n-th photograph of DIR/Kodak24, CBSD68 and BSDS500_train is degraded whole by each task's strongest training
settings and cut alike into two crops of each size. `refused`: pairs that PairCheck takes for another image or for
shifted ones; `missed`: pairs of two photographs, degraded alike, that it lets pass. Frames are the photograph and
itself moved by up to 8 % of a side, turned by up to 3 degrees, 5 % larger or smaller, then noisy and compressed.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import cv2
import numpy as np

from kgt.imaging import list_images, read_image, to_rgb
from pipelines.alignment import PairCheck, check_frames
from pipelines.degradations import Crop, degrade_image, pair_rng, settings_of
from tests.benchmarks.harness import arguments, report

FOLDERS = ("Kodak24", "CBSD68", "BSDS500_train")
PUBLISHED = (
    ("deblur", "GoPro/sharp", "GoPro/blur"),
    ("weather", "OutdoorRain/gt", "OutdoorRain/input"),
    ("weather", "RainDrop/gt", "RainDrop/input"),
)
STRONGEST: tuple[tuple[str, dict[str, Any]], ...] = (
    ("deblur", {"path": 60, "object": 0}),
    ("deblur", {"path": 60, "object": 1, "object_path": 60, "object_size": 0.6, "space": "linear", "highlight": 4}),
    ("weather", {"kind": "rain", "fog": 2.3, "streaks": 20}),
    ("weather", {"kind": "rain", "fog": 2.3, "streaks": 20, "airlight": 0.8}),
    ("weather", {"kind": "snow", "flakes": 0.15, "fog": 2.3}),
    ("weather", {"kind": "raindrop", "drops": 200, "defocus": 8}),
    ("weather", {"kind": "raindrop", "drops": 200, "defocus": 2}),
    ("denoise", {"sigma": 50}),
    ("denoise", {"noise": "camera", "a": 1e-2, "b": 2e-2}),
    ("denoise", {"sigma": 50, "gray": True}),
    ("jpeg", {"quality": 10}),
    ("jpeg", {"quality": 10, "gray": True}),
    ("sr", {"scale": 4}),
    ("demosaic", {}),
)


class Given(NamedTuple):
    """A pair of a photograph, uint8."""

    photograph: int
    clean: np.ndarray
    degraded: np.ndarray


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=4, help="use every n-th photograph")
    parser.add_argument("--others", type=int, default=2, help="other photographs that each is compared with")
    given = parser.parse_args()
    cv2.setNumThreads(1)  # as in a Ray task
    data = Path(os.environ.get("KGT_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    photographs = [read_image(path) for name in FOLDERS for path in list_images(data / name)[:: given.every]]
    rows = [_judge("published", PairCheck(task), list(_published(data, *names)), 1) for task, *names in PUBLISHED]
    for task, changes in STRONGEST:
        pairs = list(_degraded(task, changes, photographs))
        check = PairCheck(task, (changes.get("scale", 1),))
        label = f"{task} " + " ".join(f"{name}={value}" for name, value in changes.items())
        rows += [_judge(label, check, _crops(pairs, side), given.others, side) for side in (None, 256, 128, 64)]
    rows.append(_judge_frames(photographs, given.others))
    report("scenes of pairs and frames", rows, path=given.json, packages=("numpy", "opencv-python-headless"))


def _published(data: Path, clean: str, degraded: str) -> Iterator[Given]:
    both = (list_images(data / "pairs" / folder) for folder in (clean, degraded))
    for number, paths in enumerate(zip(*both, strict=True)):
        yield Given(number, *map(read_image, paths))


def _degraded(task: str, changes: dict[str, Any], photographs: list[np.ndarray]) -> Iterator[Given]:
    for number, photograph in enumerate(photographs):
        digest = hashlib.blake2b(photograph, digest_size=16).hexdigest()
        rng = pair_rng(0, 0, task, digest, Crop(0, 0, *photograph.shape[:2]))
        clean, degraded, _ = degrade_image(task, to_rgb(photograph), settings_of(task, changes), rng)
        if degraded.dtype != np.uint8:
            degraded = np.rint(255 * degraded.clip(0, 1)).astype(np.uint8)
        yield Given(number, clean, degraded)


def _crops(pairs: list[Given], side: int | None) -> list[Given]:
    if side is None:
        return pairs
    rng, crops = np.random.default_rng(side), []
    for number, clean, degraded in pairs:
        scale = clean.shape[0] // degraded.shape[0]
        for _ in range(2):
            top, left = (int(rng.integers(0, whole - side // scale + 1)) for whole in degraded.shape[:2])
            low = degraded[top : top + side // scale, left : left + side // scale]
            crops.append(Given(number, clean[top * scale :, left * scale :][:side, :side], low))
    return crops


def _judge(label: str, check: PairCheck, pairs: list[Given], others: int, side: int | None = None) -> dict[str, Any]:
    reasons = [(check(pair.clean, [pair.degraded]) or ("",))[0] for pair in pairs]
    missed = [check(one.clean, [two.degraded]) is None for one, two in _strangers(pairs, others) if _fit(one, two)]
    return {
        "of": label,
        "crop": side or "whole",
        "pairs": len(pairs),
        "refused": sum(reason == "another-image" for reason in reasons),
        "as shifted": sum(reason == "misaligned" for reason in reasons),
        "strangers": len(missed),
        "missed": sum(missed),
    }


def _judge_frames(photographs: list[np.ndarray], others: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pairs = [
        Given(number, to_rgb(photograph), _moved(photograph, rng)) for number, photograph in enumerate(photographs)
    ]
    pairs = [Given(number, *(frame[40:-40, 40:-40] for frame in both)) for number, *both in pairs]
    cut = [check_frames(clean, [clean, moved]) for _, clean, moved in pairs]
    missed = [check_frames(a.clean, [a.clean, b.degraded]) for a, b in _strangers(pairs, others) if _fit(a, b)]
    counts = {"pairs": len(pairs), "refused": sum(map(bool, cut)), "as shifted": 0}
    return {"of": "frames", "crop": "whole", **counts, "strangers": len(missed), "missed": missed.count(None)}


def _moved(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = photograph.shape[:2]
    turn, zoom, down, right = rng.uniform(-1, 1, 4) * (3, 0.05, 0.08 * height, 0.08 * width)
    laid = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1 + zoom)
    laid[:, 2] += right, down
    moved = cv2.warpAffine(to_rgb(photograph), laid, (width, height), borderMode=cv2.BORDER_REFLECT)
    noisy = np.clip(moved + rng.normal(0, 8, moved.shape), 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)


def _strangers(pairs: list[Given], others: int) -> Iterator[tuple[Given, Given]]:
    """Every pair with some of the others, spread over them."""
    for place, one in enumerate(pairs):
        for number in range(1, others + 1):
            two = pairs[(place + number * len(pairs) // (others + 1)) % len(pairs)]
            if two.photograph != one.photograph:
                yield one, two


def _fit(one: Given, two: Given) -> bool:
    return one.clean.shape == two.clean.shape


if __name__ == "__main__":
    main()
