"""How bad the degraded images are: those of published pairs, and ours of the same clean images.

    KGT_DATA=DIR python tests/benchmarks/realism.py --draws 40

DIR/pairs holds published pairs (default: ../shared/data beside the checkout). Every clean image is degraded `--draws`
times, whole, with parameters drawn from the training ranges; the table shows the 10, 50 and 90 % quantiles of the input
PSNR. For rain it also shows what the heavy-rain model explains the input with, by one fit to ours and to theirs.
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from kgt.errors import UserError
from kgt.imaging import psnr, read_image
from pipelines.degradations import Crop, degrade_image, pair_rng, settings_of
from tests.benchmarks.harness import arguments, report, start

BLOCK = 48


@dataclass(frozen=True)
class Published:
    """Pairs of a published set: `folder`/`degraded` and `folder`/`clean` hold files that sort alike."""

    folder: str
    degraded: str
    clean: str

    def pairs(self, data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        """(degraded, clean), uint8 (H, W, 3)."""
        degraded, clean = (
            sorted((data / "pairs" / self.folder / part).iterdir()) for part in (self.degraded, self.clean)
        )
        return [(read_image(d), read_image(c)) for d, c in zip(degraded, clean, strict=True)]


GOPRO = Published("GoPro", "blur", "sharp")
RAIN = Published("OutdoorRain", "input", "gt")
RAINDROP = Published("RainDrop", "input", "gt")
SUBJECTS: tuple[tuple[str, dict[str, Any], Published | None], ...] = (
    ("deblur", {"space": "encoded"}, GOPRO),
    ("deblur", {"space": "linear"}, GOPRO),
    ("deblur", {}, GOPRO),
    ("weather", {"kind": "rain"}, RAIN),
    ("weather", {"kind": "raindrop"}, RAINDROP),
    ("weather", {"kind": "snow"}, None),
)


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=40, help="degradations of each clean image")
    given = parser.parse_args()
    data = Path(os.environ.get("KGT_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not (data / "pairs").is_dir():
        raise SystemExit(f"published pairs absent: {data / 'pairs'} (set KGT_DATA to the folder that holds pairs/)")
    if given.draws < 1:
        raise UserError(f"--draws {given.draws}: one is the least")
    rows = [row for subject in SUBJECTS for row in compare(*subject, data, given.draws)]
    report("input of published pairs and ours", rows, path=given.json, packages=("numpy", "opencv-python-headless"))


def compare(
    task: str, changes: Mapping[str, Any], published: Published | None, data: Path, draws: int
) -> Iterator[dict[str, Any]]:
    """Rows of the table: a quantity's quantiles in the published pairs and in ours of the same clean images.

    A kind of weather without published pairs is drawn over the clean images of the rain's.
    """
    pairs = (published or RAIN).pairs(data)
    ours = [(degraded, clean) for _, clean in pairs for degraded in drawn(task, changes, clean, draws)]
    theirs = pairs if published else []
    about = {"of": task, "setting": " ".join(f"{k}={v}" for k, v in changes.items()) or "training mix"}
    about |= {"pairs": published.folder if published else "none here", "images": len(pairs), "draws": draws}
    yield (
        about | {"quantity": "input PSNR, dB"} | _quantiles([psnr(*pair) for pair in theirs], [psnr(*p) for p in ours])
    )
    if published is RAIN:
        fitted = rain_fields(ours)
        for name, values in rain_fields(theirs).items():
            yield about | {"quantity": name} | _quantiles(values, fitted[name])


def drawn(task: str, changes: Mapping[str, Any], clean: np.ndarray, draws: int) -> Iterator[np.ndarray]:
    """`clean` degraded whole, `draws` times."""
    asked, whole = settings_of(task, changes), Crop(0, 0, *clean.shape[:2])
    digest = hashlib.blake2b(clean, digest_size=16).hexdigest()
    for draw in range(draws):
        yield degrade_image(task, clean, asked, pair_rng(draw, 0, task, digest, whole)).degraded


def rain_fields(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """The heavy-rain model I = t (J + S) + (1 − t) A by least squares, A and the mean of S of a picture, t of a block.

    Over the pixels and channels of a block I = t J + a + residual; over the blocks a = t S̄ + (1 − t) A. A block whose
    clean pixels hardly differ tells nothing of t and is left out.
    """
    found: dict[str, list[float]] = {"transmission": [], "airlight A": [], "mean of S": [], "σ of t S, 1/255": []}
    for degraded, clean in pairs:
        blocks = []
        for top in range(0, clean.shape[0] - BLOCK + 1, BLOCK):
            for left in range(0, clean.shape[1] - BLOCK + 1, BLOCK):
                block = np.s_[top : top + BLOCK, left : left + BLOCK]
                j, i = clean[block] / 255, degraded[block] / 255
                if j.std() < 0.05:
                    continue
                t = np.mean((j - j.mean()) * (i - i.mean())) / j.var()
                blocks.append((t, i.mean() - t * j.mean(), 255 * (i - t * j).mean(axis=2).std()))
        transmission, added, deviation = np.array(blocks).T
        model = np.stack([1 - transmission, transmission], axis=1)
        airlight, streaks = np.linalg.lstsq(model, added)[0]
        for name, values in zip(found, (transmission, [airlight], [streaks], deviation), strict=True):
            found[name].extend(map(float, values))
    return found


def _quantiles(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float | None]:
    shares = (0.1, 0.5, 0.9)
    published = np.quantile(theirs, shares).tolist() if theirs else [None] * 3
    both = (("theirs", published), ("ours", np.quantile(ours, shares).tolist()))
    return {f"{who} {share:.0%}": value for who, values in both for share, value in zip(shares, values, strict=True)}


if __name__ == "__main__":
    start(main)
