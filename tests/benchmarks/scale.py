"""How the shard factory grows: the same command on 1×, 10× and 100× the images, and the memory that it takes.

    python tests/benchmarks/scale.py --images 100

Each row is a process of its own: `pipelines/synthesize.py task=jpeg`, one crop of 96 pixels from each image of 128
(crops of the built-in photographs, all different). Peaks are of resident memory, of the driver and of the largest
worker; both include what an idle one holds.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from PIL import Image

from kgt.imaging import read_image, to_rgb
from pipelines.sample import sample_photographs
from tests.benchmarks.harness import arguments, report, start

ROOT = Path(__file__).resolve().parents[2]
SIDE = 128


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100, help="images of the smallest run")
    parser.add_argument("--factors", type=int, nargs="*", default=[1, 10, 100], help="how many times as many")
    given = parser.parse_args()
    rows = []
    for factor in given.factors:
        with tempfile.TemporaryDirectory(prefix="kgt-benchmark-") as folder:
            rows.append(_run(Path(folder), given.images * factor))
    report("shard synthesis by number of images", rows, path=given.json, packages=("ray", "numpy", "pillow"))


def _run(folder: Path, count: int) -> dict[str, object]:
    _make_images(folder / "images", count)
    command = [sys.executable, str(ROOT / "pipelines" / "synthesize.py"), "task=jpeg", f"source={folder / 'images'}"]
    settings = ["crop=96", "crops=1", f"shards_min={max(16, count // 100)}", "max_flatness=1"]
    places = [f"store=file://{folder / 'store'}", f"report={folder / 'report.json'}"]
    subprocess.run([*command, *settings, *places], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = json.loads((folder / "report.json").read_text())
    return {
        "images": count,
        "pairs": found["pairs_made"],
        "shards": found["shards"]["made"],
        "survey, images/s": count / found["survey_seconds"],
        "pairs/s": found["pairs_per_second"],
        "driver's peak, MiB": found["peak_mib"]["driver"],
        "worker's peak, MiB": found["peak_mib"]["worker"],
    }


def _make_images(folder: Path, count: int) -> None:
    folder.mkdir()
    photographs = [to_rgb(read_image(path)) for path in sample_photographs("train")]
    rng = np.random.default_rng(0)
    for number in range(count):
        image = photographs[number % len(photographs)]
        top, left = (int(rng.integers(side - SIDE + 1)) for side in image.shape[:2])
        crop = image[top : top + SIDE, left : left + SIDE]
        Image.fromarray(crop).save(folder / f"{number:06d}.png", compress_level=1)


if __name__ == "__main__":
    start(main)
