"""`make demo`: the whole path on built-in photographs, by the commands a person would type.

    photographs -> shards for six tasks -> six KGTs -> MLflow registry -> champions -> restored pictures

Each stage is one of the project's own commands, printed before it runs. All of them resume, so an interrupted demo
goes on where it stopped. State lies under KGT_HOME (default ~/.kgt), where every other command looks for it too.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.console import Console
from rich.table import Table

from kgt.home import home, tracking_uri
from kgt.imaging import read_image, to_rgb, write_image
from kgt.tasks import TASKS
from pipelines.degradations import Crop, degrade_image, pair_rng, settings_of
from pipelines.sample import sample_photographs
from training import origin

ROOT = Path(__file__).resolve().parents[1]
SYNTHESIS = ("task=all", "source=sample", "crop=128", "crops=32", "seed=0")
TRAINING = (
    "task=all",
    "model=kgt-tiny",
    "steps=80",
    "batch_size=8",
    "lr=2e-3",
    "warmup=20",
    "topk=random",
    "workers=2",
)
PROMOTION = ("task=all", "images=sample")
REPORTED = {"denoise": {"sigma": 25}, "jpeg": {"quality": 10}, "weather": {"kind": "rain"}, "sr": {"scale": 2}}
"""What the figures are measured at; training draws from the whole ranges."""

SHOWN = {
    "deblur": "chelsea.png",
    "jpeg": "astronaut.png",
    "denoise": "chelsea.png",
    "weather": "coffee.png",
    "demosaic": "flower.jpg",
    "sr": "astronaut.png",
}
"""The held-out photograph that each task's picture shows."""

CELL = 256

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def main() -> int:
    """Run the stages in order; the exit status of the first that fails."""
    started = time.monotonic()
    console.print(f"The KGT demo. Everything it makes lies under {home()} (set KGT_HOME for another place).")
    settings = [f"tasks.{task}.{name}={value}" for task, asked in REPORTED.items() for name, value in asked.items()]
    # The store is said because it has no default where MLflow is a server.
    promoting = [f"store=file://{home() / 'shards'}", *settings]
    for title, command in (
        ("1/4  Degraded/clean pairs for six tasks", ["pipelines/synthesize.py", *SYNTHESIS]),
        ("2/4  One Key-Graph Transformer for each, two workers", ["training/run.py", *TRAINING]),
        ("3/4  Promotion, on held-out photographs", ["training/promote.py", *PROMOTION, *lineage(), *promoting]),
    ):
        console.rule(title, align="left")
        if status := run(["python", *command]):
            return status
    console.rule("4/4  One degraded photograph a task, restored", align="left")
    reports = {task: json.loads((home() / "reports" / f"{task}.json").read_text()) for task in TASKS}
    rows = []
    for task, report in reports.items():
        clean, degraded = degrade(task)
        restored = degraded.with_name(f"{task}-restored.png")
        alias = "challenger" if report["champion"] is None and report["verdict"] != "promoted" else "champion"
        if status := run(["kgt", "restore", str(degraded), str(restored), "--model", f"models:/kgt-{task}@{alias}"]):
            return status
        rows.append((f"{TASKS[task].title} ({alias})", clean, read_image(degraded), read_image(restored)))
    sheet = home() / "demo" / "restored.png"
    write_image(sheet, contact_sheet(rows))
    console.rule(f"Done in {(time.monotonic() - started) / 60:.1f} min", align="left")
    console.print(summary(reports))
    console.print(f"Clean, degraded, restored:  {sheet}", soft_wrap=True)
    console.print(f"The runs and the models:    {mlflow_ui()}", soft_wrap=True)
    return 0


def run(command: Sequence[str]) -> int:
    """Print and run a command of the project; its output and progress go straight to the terminal."""
    console.print(f"$ {shlex.join(command)}", style="bold", soft_wrap=True)
    program = {"python": [sys.executable], "kgt": [Path(sys.executable).with_name("kgt")]}[command[0]]
    return subprocess.run([*program, *command[1:]], cwd=ROOT, check=False).returncode


def lineage() -> list[str]:
    """What promotion is asked where no commit names the code: to do without."""
    if origin.is_commit(origin.git_commit()):
        return []
    console.print("No commit has the code that is here: models are promoted with an incomplete lineage.")
    return ["lineage=false"]


def degrade(task: str) -> tuple[np.ndarray, Path]:
    """(clean pixels, file of the degraded ones) of the photograph that the task shows."""
    photograph = next(path for path in sample_photographs("val") if path.name == SHOWN[task])
    image = to_rgb(read_image(photograph))
    settings = settings_of(task, REPORTED.get(task, {}), evaluation=True)
    pair = degrade_image(task, image, settings, pair_rng(0, 0, task, photograph.name, Crop(0, 0, *image.shape[:2])))
    pixels = pair.degraded
    if pixels.dtype != np.uint8:  # a file holds 8 bits: what the noise takes below black or above white is lost
        pixels = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    path = home() / "demo" / f"{task}-degraded.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)
    return pair.clean, path


def contact_sheet(rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Two entries of (label, clean, degraded, restored) a line: the middle of each, enlarged to the clean one."""
    gap, line = 8, 22
    width, height = 3 * CELL + 3 * gap, CELL + line + gap
    font = ImageFont.load_default(15)
    sheet = Image.new("RGB", (2 * width + gap, -(-len(rows) // 2) * height + gap), "white")
    for index, (label, *pictures) in enumerate(rows):
        left, top = gap + index % 2 * width, gap + index // 2 * height
        ImageDraw.Draw(sheet).text((left, top), f"{label}:   clean   |   degraded   |   restored", "black", font)
        size = pictures[0].shape[1::-1]
        x, y = ((side - CELL) // 2 for side in size)
        for column, pixels in enumerate(pictures):
            image = Image.fromarray(to_rgb(pixels)).resize(size, Image.Resampling.NEAREST)
            sheet.paste(image.crop((x, y, x + CELL, y + CELL)), (left + column * (CELL + gap), top + line))
    return np.asarray(sheet)


def summary(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """The decisions' own figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("task", "left"), ("measured at", "left"), ("input", "right"), ("restored", "right")):
        table.add_column(name, justify=justify, no_wrap=True)
    for name in ("model", "verdict", "because"):
        table.add_column(name, overflow="fold")
    for task, report in reports.items():
        measured = "; ".join(f"{row['setting']}, {row['images']} photographs" for row in report["rows"][:1])
        figures = (report["input_psnr"], report["psnr"])
        decibels = ("-" if figure is None else f"{figure:.2f} dB" for figure in figures)  # none for a refused model
        model = f"kgt-{task} v{report['version']}"
        table.add_row(task, measured, *decibels, model, report["verdict"], report["reason"])
    return table


def mlflow_ui() -> str:
    """The command that opens what was logged, or the address of the team's server."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return uri
    return (
        shlex.join([f"{Path(sys.executable).parent}/mlflow", "ui", "--backend-store-uri", uri])
        + "   then http://127.0.0.1:5000"
    )


if __name__ == "__main__":
    sys.exit(main())
