"""What BM3D (Dabov et al. 2007; bm3d from PyPI) makes of the images that denoising models are measured on.

    python tests/benchmarks/classical.py --images CBSD68 Kodak24 --sigma 25

The very pairs, protocol and figures of `training/evaluate.py task=denoise`, so that the rows may stand beside its own.
BM3D is told the standard deviation of the noise; a blind model is not.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from kgt.errors import UserError
from kgt.imaging import score
from kgt.tasks import get_task
from tests.benchmarks.harness import arguments, print_table, start, store
from training.image_sets import ImageSet, baseline, check_images, degraded_sets

TASK = "denoise"


def main() -> None:
    """Measure and report; the JSON grows with every set."""
    try:
        import bm3d  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("bm3d is not installed: pip install -e '.[platform,benchmarks]'") from error
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", required=True, help="folders, also those below $KGT_DATA, or sample")
    parser.add_argument("--sigma", nargs="+", type=float, default=[25.0], help="of the noise, in 1/255")
    parser.add_argument("--limit", type=int, default=0, help="only so many images of a set; 0: all")
    given = parser.parse_args()
    rows = []
    for one in _sets(given):
        rows.append(measure(one))
        store("BM3D", rows, path=given.json, packages=("bm3d", "bm4d", "numpy"))
    digits = {"input_psnr": 2, "psnr": 2, "input_ssim": 4, "ssim": 4, "seconds": 1}
    print_table("BM3D", [row | {name: f"{row[name]:.{many}f}" for name, many in digits.items()} for row in rows])


def measure(images: ImageSet) -> dict[str, Any]:
    """The means over a set; PSNR in dB, seconds of one image."""
    from bm3d import bm3d_rgb

    protocol = get_task(TASK).protocol
    found = []
    for read in images.pairs:
        pair = read().pair
        begun = time.perf_counter()
        restored = bm3d_rgb(pair.degraded, pair.parameters["sigma"] / 255)
        seconds = time.perf_counter() - begun
        rounded = np.rint(np.clip(restored, 0, 1) * 255).astype(np.uint8)
        found.append(
            (*score(baseline(TASK, pair), pair.clean, protocol), *score(rounded, pair.clean, protocol), seconds)
        )
    names = ("input_psnr", "input_ssim", "psnr", "ssim", "seconds")
    means = dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
    return {"set": images.name, "setting": images.setting, "images": len(found), **means}


def _sets(given: argparse.Namespace) -> Sequence[ImageSet]:
    addresses = f"[{','.join(given.images)}]"
    check_images(addresses, "", "")
    return degraded_sets(TASK, addresses, {"sigma": given.sigma}, given.limit, "BM3D", None)


if __name__ == "__main__":
    start(main)
