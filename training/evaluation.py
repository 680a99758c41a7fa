"""How good a model is, by the published protocols: degrade, restore, compare, average over a set of images."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kgt import registry
from kgt.errors import UserError
from kgt.imaging import HIGHEST_PSNR, score
from kgt.tasks import TASKS, Protocol, get_task
from pipelines.degradations import Pair, demosaic, settings_of
from pipelines.options import about
from pipelines.progress import Meter
from training import published
from training.image_sets import ImageSet, NamedPair, baseline, check_images, degraded_sets, paired_sets

if TYPE_CHECKING:
    from kgt.model import KGT

_SSIM_WINDOW = 11
_WARM_UP_SIDE = 128


@dataclass
class MeasureOptions:
    """What the commands that measure models have in common."""

    task: Any = field(default="all", metadata=about("one task, a list as [sr,denoise], or all"))
    images: str = field(
        default="",
        metadata=about("clean images: a folder (also below $KGT_DATA), s3://…, sample, or several as [Set5,Set14]"),
    )
    degraded: str = field(default="", metadata=about("ready pairs instead: the folder of degraded images"))
    clean: str = field(default="", metadata=about("… and the folder of their clean ones"))
    tile: int | None = field(default=None, metadata=about("side of the tiles, in pixels; empty: as large as is wise"))
    limit: int = field(default=0, metadata=about("only so many images of a set; 0: all"))
    device: str = field(default="cpu", metadata=about("where models run: cpu or cuda"))
    tasks: dict[str, Any] = field(
        default_factory=dict, metadata=about("tasks.<task>.<setting>=10, [10,20] or {min: 10, max: 20}")
    )

    def of(self, task: str) -> dict[str, Any]:
        """What `evaluate_task` is to be told for that task."""
        names = ("images", "degraded", "clean", "tile", "limit", "device")
        return {name: getattr(self, name) for name in names} | {"changes": self.tasks.get(task)}


@dataclass(frozen=True)
class Row:
    """The means over a set's images in one setting.

    k: neighbours a node of 1024; None: the model's own. published: the paper's PSNR for the same, by model.
    seconds: of one image. also: further figures such as `psnr_y`, by their names. per_image: each one's figures, its
    name (`image`), and that of its `clean` image, which several may share.
    """

    task: str
    set: str
    setting: str
    model: str
    images: int
    input_psnr: float
    input_ssim: float
    psnr: float
    ssim: float
    seconds: float
    k: int | None = None
    ensemble: bool = False
    published: dict[str, float] = field(default_factory=dict)
    also: dict[str, float] = field(default_factory=dict)
    per_image: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As a report's JSON has it."""
        flat = {name: value for name, value in vars(self).items() if name not in ("also", "per_image")}
        return {**flat, **self.also, "per_image": self.per_image}


def evaluate_task(
    task: str,
    *,
    images: str = "",
    degraded: str = "",
    clean: str = "",
    model: str = "input",
    changes: Mapping[str, Any] | None = None,
    k: int | Sequence[int] | None = None,
    tile: int | None = None,
    ensemble: bool = False,
    limit: int = 0,
    device: str = "cpu",
    quiet: bool = False,
) -> list[Row]:
    """One row for every set of images, every choice in the task's settings and every `k`.

    `images`: a folder, s3://…, `sample` (those held out), or several as `[Set5,Set14]`; with `degraded` and `clean`
    instead, folders of ready pairs, there is one set. `changes`: what stands under `tasks.<task>.` for this task;
    `limit`: only so many images of a set; `k`, `tile`, `device`: as in `kgt restore`; `ensemble`: see `kgt.ensemble`;
    `quiet`: no progress is shown.

    Raises UserError for an unknown task or setting, folders without images or not in pairs, an image that cannot be
    scored, a model that is not there or for something else.
    """
    get_task(task)
    changes = changes or {}
    if limit < 0:
        raise UserError(f"limit={limit}: a number of images is wanted, 0 for all")
    if model == "input" and (k is not None or ensemble):
        raise UserError(f"model=input restores nothing: {'k' if k is not None else 'ensemble'}= has no meaning there")
    if task == "demosaic" and model != "input":
        demosaic.check_model_takes(settings_of(task, changes, evaluation=True))
    network = None if model == "input" else load_model(model, task, device)
    scale = network.config.scale if network else None
    check_images(images, degraded, clean)
    if degraded:
        sets = paired_sets(task, degraded, clean, changes, limit, model, scale)
    else:
        sets = degraded_sets(task, images, changes, limit, model, scale)
    restorer = _Restorer(network, task, tile, ensemble) if network else None
    ks = [*dict.fromkeys(k)] if isinstance(k, Sequence) else [k]
    rows = []
    total = sum(len(one.pairs) for one in sets) * len(ks)
    with nullcontext() if quiet else Meter(f"{task} ({model})", total, "images") as meter:
        for one in sets:
            scored: dict[int | None, list[dict[str, Any]]] = {asked: [] for asked in ks}
            for read in one.pairs:
                found = read()
                given = _Given(task, found)
                for asked in ks:
                    scored[asked].append(given.figures(*(restorer(found.pair, asked) if restorer else (None, 0.0))))
                    if meter:
                        meter.advance()
            known = {} if limit else published.figures(task, one.name, one.setting)  # the paper's are of whole sets
            rows += [_mean(task, one, model, asked, ensemble, known, figures) for asked, figures in scored.items()]
    return rows


def load_model(model: str, task: str, device: str = "cpu") -> "KGT":
    """The network of a weights file or `models:/…` address. Raises UserError unless it is one for the task."""
    import torch

    from kgt.weights import load_weights

    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise UserError(f"device={device}: there is none here; use device=cpu")
    path = registry.fetch(model) if registry.is_address(model) else Path(model)
    network, metadata = load_weights(path, device=device)
    trained_for = metadata.get("task", task)
    if trained_for != task:
        raise UserError(f"{model} is a model for '{trained_for}', not for '{task}'")
    return network


class _Restorer:
    """Restores degraded images and takes the time, which what is compiled or chosen at a first call is not part of."""

    def __init__(self, network: "KGT", task: str, tile: int | None, ensemble: bool) -> None:
        from kgt.ensemble import SelfEnsemble

        self._network = SelfEnsemble(network, task) if ensemble else network
        self._task, self._tile = task, tile
        self._warm: set[int | None] = set()

    def __call__(self, pair: Pair, k: int | None) -> tuple[np.ndarray, float]:
        """(the restored image, seconds)"""
        from kgt.restore import restore

        if k not in self._warm:
            corner = pair.degraded[:_WARM_UP_SIDE, :_WARM_UP_SIDE]
            restore(self._network, corner, task=self._task, k=k, tile=self._tile)
            self._warm.add(k)
        start = time.perf_counter()
        restored = restore(self._network, pair.degraded, task=self._task, k=k, tile=self._tile)
        return restored, time.perf_counter() - start


class _Given:
    """An image to be restored, with the figures of what it is before, under all of the task's protocols."""

    def __init__(self, task: str, found: NamedPair) -> None:
        name, clean_name, pair = found
        self._names, self._clean = {"image": name, "clean": clean_name}, pair.clean
        self._scale = pair.clean.shape[0] // pair.degraded.shape[0]
        self._protocols = {"": TASKS[task].protocol, **{f"_{key}": protocol for key, protocol in TASKS[task].also}}
        _check_size(name, pair.clean, max(_border(protocol, self._scale) for protocol in self._protocols.values()))
        self._before = self._scores(baseline(task, pair))

    def figures(self, restored: np.ndarray | None, seconds: float) -> dict[str, Any]:
        """One image's part of a report, with `restored` instead; None: as it is."""
        after = self._before if restored is None else self._scores(restored)
        before = {f"input_{name}": value for name, value in self._before.items()}
        return {**self._names, "seconds": seconds, **before, **after}

    def _scores(self, image: np.ndarray) -> dict[str, float]:
        found = {}
        for suffix, protocol in self._protocols.items():
            psnr, ssim = score(image, self._clean, protocol, self._scale)
            found |= {f"psnr{suffix}": min(psnr, HIGHEST_PSNR), f"ssim{suffix}": ssim}
        return found


def _border(protocol: Protocol, scale: int) -> int:
    return scale if protocol.border == "scale" else protocol.border


def _check_size(name: str, clean: np.ndarray, border: int) -> None:
    least = _SSIM_WINDOW + 2 * border
    if min(clean.shape[:2]) < least:
        raise UserError(
            f"{name} is too small to be scored: {clean.shape[1]}x{clean.shape[0]}, {least} a side is needed"
        )


def _mean(
    task: str,
    images: ImageSet,
    model: str,
    k: int | None,
    ensemble: bool,
    known: dict[str, float],
    scored: Sequence[dict[str, Any]],
) -> Row:
    names = [key for key, value in scored[0].items() if not isinstance(value, str)]
    figures = {name: float(np.mean([image[name] for image in scored])) for name in names}
    headline = {key: figures.pop(key) for key in ("input_psnr", "input_ssim", "psnr", "ssim", "seconds")}
    return Row(
        *(task, images.name, images.setting, model, len(scored)),
        **headline,
        k=k,
        ensemble=ensemble,
        published=known,
        also=figures,
        per_image=list(scored),
    )
