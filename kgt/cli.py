"""The `kgt` command: `kgt restore` for pictures, `kgt info` for what a model costs."""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kgt.errors import UserError, as_command
from kgt.imaging import check_writable, list_images, read_photo, write_image
from kgt.tasks import TASKS, get_task, nearest

if TYPE_CHECKING:
    from kgt.model import KGT
    from kgt.restore import Progress

COMMANDS = ("restore", "info")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


@as_command("interrupted: finished pictures are whole, no other was written")
def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 if some pictures of a folder failed; 2 after a mistake of the user's; 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0][0:1] != "-" and argv[0] not in COMMANDS:
        raise UserError(f"unknown command '{argv[0]}': {nearest(argv[0], COMMANDS)}")
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kgt", description="Key-Graph Transformer for image restoration.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    restore = commands.add_parser("restore", help="restore a picture, or every picture of a folder")
    restore.set_defaults(run=_restore)
    restore.add_argument("source", metavar="IN", type=Path, help="picture or folder")
    restore.add_argument("target", metavar="OUT", type=Path, help="where it goes; the suffix names the format")
    restore.add_argument("--model", required=True, help="weights file, or models:/kgt-<task>@champion")
    restore.add_argument("--task", help=f"refuse a model for anything else: {', '.join(TASKS)}")
    restore.add_argument("--k", type=int, help="neighbours of a node, of 1024 (default: the model's own)")
    restore.add_argument("--tile", type=int, help="side of the tiles in pixels (default: 512 where a picture is large)")
    _add_device(restore)

    info = commands.add_parser("info", help="parameters, multiply-adds and memory of a model")
    info.set_defaults(run=_info)
    info.add_argument("preset", metavar="PRESET", help="kgt-tiny, kgt-s, kgt-b or kgt-u")
    info.add_argument("--task", required=True, help=", ".join(TASKS))
    info.add_argument("--scale", type=int, default=1, help="of super-resolution: 2, 3 or 4")
    info.add_argument("--size", default="256x256", metavar="HxW", help="of the input (default: %(default)s)")
    info.add_argument("--k", type=int, help="neighbours of a node, of 1024 (default: the preset's own)")
    _add_device(info)
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def _device(asked: str | None) -> str:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no usable GPU is found on this machine")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def _restore(arguments: argparse.Namespace) -> int:
    jobs = _jobs(arguments.source, arguments.target)
    if arguments.task is not None:
        get_task(arguments.task)
    from kgt.restore import check_options

    check_options(arguments.k, arguments.tile)
    model, task = _load(arguments.model, arguments.task, _device(arguments.device))
    failed = 0
    for source, target in jobs:
        started = time.perf_counter()
        try:
            size = _restore_one(model, task, source, target, arguments.k, arguments.tile)
        except UserError as error:
            if len(jobs) == 1:
                raise
            failed += 1
            print(f"error: {error}", file=sys.stderr)
        else:
            print(f"{target}  {size[1]}x{size[0]}  {time.perf_counter() - started:.1f} s")
    if failed:
        print(f"error: {failed} of {len(jobs)} pictures were not restored", file=sys.stderr)
    return 1 if failed else 0


def _jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """What is read and where it goes. Nothing that is read is ever written over."""
    if source.is_dir():
        if target.is_file():
            raise UserError(f"{target} is a file, {source} a folder: name a folder to write to")
        if target.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{target} lies in {source}, which is read: name another folder")
        return [(path, target / path.relative_to(source)) for path in list_images(source)]
    if not source.exists():
        raise UserError(f"no such picture or folder: {source}")
    target = target / source.name if target.is_dir() else target
    check_writable(target)
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the picture that is read: name another file")
    return [(source, target)]


def _load(model: str, asked: str | None, device: str) -> "tuple[KGT, str]":
    """The model and the task it is for."""
    from kgt.registry import fetch, is_address
    from kgt.weights import load_weights

    loaded, metadata = load_weights(fetch(model) if is_address(model) else Path(model), device=device)
    task = metadata.get("task", asked)
    if task is None:
        raise UserError(f"{model} does not say what it is for: name it with --task")
    if asked not in (None, task):
        raise UserError(f"{model} is for '{task}', not for '{asked}'")
    return loaded, task


def _restore_one(
    model: "KGT", task: str, source: Path, target: Path, k: int | None, tile: int | None
) -> tuple[int, int]:
    """Restores one file and returns its new height and width."""
    import torch

    from kgt.restore import restore_photo

    photo = read_photo(source)
    check_writable(target, alpha=photo.alpha is not None)
    try:
        restored = restore_photo(model, photo, task=task, k=k, tile=tile, progress=_progress(source))
    except (torch.OutOfMemoryError, MemoryError) as error:
        smaller = max(64, (tile or 512) // 2)
        raise UserError(f"{source}: the memory is too small for its tiles: try --tile {smaller}") from error
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    write_image(target, restored.pixels, alpha=restored.alpha, icc=restored.icc)
    return restored.pixels.shape[:2]


def _progress(source: Path) -> "Progress | None":
    """Counts tiles on a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if total > 1:
            end = "\r\033[K" if done == total else ""
            print(f"\r{source.name}: tile {done} of {total}{end}", end="", file=sys.stderr, flush=True)

    return show


def _info(arguments: argparse.Namespace) -> int:
    from kgt.config import TOPK_NODES, preset
    from kgt.info import cost
    from kgt.restore import check_options

    config = preset(arguments.preset, arguments.task, arguments.scale)
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", arguments.size)
    if not match:
        raise UserError(f"--size {arguments.size}: write HEIGHTxWIDTH in pixels, as 256x256")
    check_options(arguments.k, None)
    size = (int(match[1]), int(match[2]))
    device = _device(arguments.device)
    costs = cost(config, size, arguments.k, device)
    k = config.topk if arguments.k is None else arguments.k
    print(f"{arguments.preset} for {get_task(arguments.task).title}" + (f" ×{config.scale}" * (config.scale > 1)))
    print(f"parameters   {costs.parameters:,}")
    print(f"compute      {costs.macs / 1e9:,.1f} GMAC for {size[0]}x{size[1]} at k = {k} of {TOPK_NODES}")
    print(f"memory       {costs.memory / 2**20:,.0f} MiB of weights and activations (float32, no gradients)")
    print(f"attention    {costs.attention.name} on {device}: {costs.attention.reason}")
    return 0
