"""Which of several ways to train restores better: their networks, trained from several seeds, on the same images.

    python tests/benchmarks/ablation.py runs/random-{0,1,2} runs/fixed512-{0,1,2} --images CBSD68 --sigma 25 --k 64 512

A run's folder is named `<arm>-<seed>`; the first arm is what the others are compared with. Networks of one seed begin
alike and see the same batches, so what counts is their difference, a seed at a time. A row is an arm at one k: `psnr`
is the mean over its seeds, in dB; `gain` the mean of its differences from the first arm, `of the seeds` each of them,
and `95 %` how far Student's two-sided bounds lie from the gain.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from scipy import stats

from kgt.errors import UserError
from tests.benchmarks.harness import arguments, print_table, start, store
from training.evaluation import Row, evaluate_task

TASK = "denoise"
Arms = Mapping[str, Mapping[str, Sequence[Row]]]


def main() -> None:
    """Measure network by network and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="<out> folders of denoising runs, <arm>-<seed>")
    parser.add_argument("--images", required=True, help="a folder, also below $KGT_DATA, or sample")
    parser.add_argument("--sigma", type=float, default=25.0, help="of the noise, in 1/255")
    parser.add_argument(
        "--k", nargs="+", type=int, default=[64, 128, 256, 512], help="neighbours of 1024 to restore at"
    )
    parser.add_argument("--limit", type=int, default=0, help="only so many images; 0: all")
    given = parser.parse_args()
    measured: dict[str, dict[str, Sequence[Row]]] = defaultdict(dict)
    for (arm, seed), weights in networks(given.runs).items():
        changes = {"sigma": given.sigma}
        measured[arm][seed] = evaluate_task(
            TASK, images=given.images, model=str(weights), changes=changes, k=given.k, limit=given.limit
        )
    rows = compare(measured)
    store("ablation", rows, path=given.json, packages=("torch",), more={"networks": list(_own_figures(measured))})
    print_table("ablation", [row | _written(row) for row in rows])


def networks(runs: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """The weights of each (arm, seed), as given. Raises UserError unless every arm has the first one's seeds."""
    found = {}
    for run in runs:
        arm, dash, seed = run.name.rpartition("-")
        weights = run / TASK / "weights.safetensors"
        if not dash or (arm, seed) in found:
            raise UserError(f"{run}: a folder <arm>-<seed> of its own is wanted for every run")
        if not weights.is_file():
            raise UserError(f"{run}: no finished run ({weights} is not there)")
        found[arm, seed] = weights
    seeds = defaultdict(set)
    for arm, seed in found:
        seeds[arm].add(seed)
    first = next(iter(seeds))
    for arm in seeds:
        if seeds[arm] != seeds[first]:
            raise UserError(f"{arm} has seeds {sorted(seeds[arm])}, and {first} {sorted(seeds[first])}: give the same")
    return found


def compare(measured: Arms) -> list[dict[str, Any]]:
    """A row an arm and k; measured: of every arm and seed the rows of an evaluation, those of all alike."""
    first = next(iter(measured.values()))
    rows = []
    for arm, seeds in measured.items():
        for number, row in enumerate(next(iter(seeds.values()))):
            psnr = {seed: of[number].psnr for seed, of in seeds.items()}
            gains = [value - first[seed][number].psnr for seed, value in psnr.items()]
            rows.append(
                {
                    "arm": arm,
                    "k": row.k,
                    "psnr": float(np.mean(list(psnr.values()))),
                    "ssim": float(np.mean([of[number].ssim for of in seeds.values()])),
                    "gain": float(np.mean(gains)),
                    "95 %": _half_width(gains),
                    "of the seeds": gains,
                    "seconds": float(np.mean([of[number].seconds for of in seeds.values()])),
                }
            )
    return rows


def _half_width(gains: Sequence[float]) -> float | None:
    """Of the mean's 95 % interval by Student's t; None for one seed, of which nothing follows."""
    if len(gains) < 2:
        return None
    return float(stats.t.ppf(0.975, len(gains) - 1) * np.std(gains, ddof=1) / np.sqrt(len(gains)))


def _written(row: Mapping[str, Any]) -> dict[str, str]:
    """For the table: differences of thousandths of a dB are seen in all columns."""
    of_the_seeds = " ".join(f"{one:+.3f}" for one in row["of the seeds"])
    return {"psnr": f"{row['psnr']:.3f}", "ssim": f"{row['ssim']:.4f}", "of the seeds": of_the_seeds}


def _own_figures(measured: Arms) -> list[dict[str, Any]]:
    """Every network's own figures."""
    return [
        {"arm": arm, "seed": seed, "k": row.k, "psnr": row.psnr, "ssim": row.ssim}
        for arm, seeds in measured.items()
        for seed, of in seeds.items()
        for row in of
    ]


if __name__ == "__main__":
    start(main)
