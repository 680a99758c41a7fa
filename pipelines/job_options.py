"""What `synthesize.py` can be told, and `regenerate.py` beyond it."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kgt.errors import UserError
from kgt.imaging.files import check_writable
from pipelines.alignment import check_frames
from pipelines.degradations import settings_of
from pipelines.degradations.values import fixed
from pipelines.frames import list_frames
from pipelines.json_report import check_report
from pipelines.options import about, expand_tasks
from pipelines.pairing import list_pairs, pair_check
from pipelines.plan import OF_GIVEN, Recipe, recipe_of
from pipelines.sources import Source, list_sources
from pipelines.survey import Check

if TYPE_CHECKING:
    from pipelines.leaks import Guard


@dataclass
class Options:
    """What `synthesize.py` takes."""

    task: Any = field(default="all", metadata=about("one task, several as [sr,denoise], or all"))
    source: str = field(
        default="sample",
        metadata=about("clean images: a folder, s3://bucket/folder, FOLDER/{00..12}.tar, a list FILE.txt, or sample"),
    )
    degraded: str = field(
        default="", metadata=about("pairs of your own: where the degraded images are of the clean ones in source")
    )
    frames: int | None = field(
        default=None, metadata=about("deblur: average so many consecutive frames of each folder, an odd number")
    )
    exclude: str = field(
        default="", metadata=about("withdrawn: name patterns, digests, licence:TAG, as [a,b]; or a .txt file of them")
    )
    guard: str = field(default="", metadata=about("test images: what shows the same, also cropped, is refused"))
    store: str = field(
        default="", metadata=about("where shards go: file:///folder or s3://bucket/folder [$KGT_HOME/shards]")
    )
    licence: str = field(
        default="unspecified", metadata=about("licence tag recorded with every pair (the sample has its own)")
    )
    limit: int | None = field(default=None, metadata=about("use the first so many source images only"))
    crop: int = field(default=256, metadata=about("side of a clean crop, pixels"))
    crops: int = field(default=16, metadata=about("crops of one image, at most"))
    grid: int | None = field(
        default=None, metadata=about("crops on a grid of this spacing, pixels; empty: at random places")
    )
    max_flatness: float = field(
        default=0.9, metadata=about("crops are dropped of which more than this share is flat, without detail")
    )
    min_sharpness: float = field(
        default=0.0, metadata=about("images whose Laplacian varies less (in 1/255, squared) are refused as blurred")
    )
    min_quality: int = field(
        default=60, metadata=about("JPEG files compressed to less than this quality are refused as compressed")
    )
    seed: int = field(default=0, metadata=about("seed of everything random"))
    val_fraction: float = field(default=0.05, metadata=about("share of the source images kept for validation"))
    max_reject_fraction: float = field(
        default=0.5, metadata=about("more unusable source images than this fail the run")
    )
    shard_mib: float = field(default=256.0, metadata=about("size of a shard aimed at, MiB"))
    shards_min: int = field(
        default=24, metadata=about("training shards at least, where there are as many pairs: what workers share out")
    )
    preview: str | None = field(
        default=None, metadata=about("write a contact sheet (clean and degraded) to this image file")
    )
    plan_only: bool = field(default=False, metadata=about("say what would be made and what it costs; make no shards"))
    report: str = field(default="", metadata=about("write the closing figures to this JSON file"))
    tasks: dict[str, dict[str, Any]] = field(
        default_factory=dict, metadata=about("tasks.<task>.<setting>=10, [10,20] or {min: 10, max: 20}")
    )

    def __post_init__(self) -> None:
        for name in ("crop", "crops", "grid", "shards_min", "shard_mib", "limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name}={value}: a number above 0 is wanted")
        if not 0 <= self.min_sharpness < math.inf:
            raise UserError(f"min_sharpness={self.min_sharpness}: a number from 0 on is wanted")
        for name in ("val_fraction", "max_reject_fraction", "max_flatness"):
            check_share(name, getattr(self, name))
        if self.shard_mib > 4096:
            raise UserError(f"shard_mib={self.shard_mib:g}: a shard is put in one request, 4096 MiB at most")
        tasks = expand_tasks(self.task)
        for name in ("degraded", "frames"):
            if getattr(self, name) and len(tasks) > 1:
                raise UserError(f"{name}={getattr(self, name)}: that is for one task, name it as in task=deblur")
        if self.degraded:
            self._check_given(tasks[0])
        if "deblur" in tasks:
            self._check_blur()
        if self.degraded and self.frames:
            raise UserError("degraded= and frames= are two ways to come by the degraded images: give one")
        if self.frames and tasks != ["deblur"]:
            raise UserError(f"frames={self.frames}: frames of a video are averaged for task=deblur, not {tasks[0]}")

    def recipes(self, *, paired: bool | None = None) -> list[Recipe]:
        """One for each task asked for; `paired`: as if the degraded images were given, or not. Raises UserError."""
        paired = bool(self.degraded) if paired is None else paired
        names = ("seed", "crop", "crops", "grid", "max_flatness", "val_fraction", "shard_mib", "shards_min")
        common = {name: getattr(self, name) for name in names} | {"paired": paired}
        video = {"blur": "video"} if self.frames else {}
        return [recipe_of(task, self.tasks.get(task, {}) | video, **common) for task in expand_tasks(self.task)]

    def list_sources(self) -> list[Source]:
        """What `source` names, with what belongs to each image. Raises UserError."""
        if self.degraded:
            return list_pairs(self.source, self.degraded, self.licence)[: self.limit]
        if self.frames:
            windows, left_over = list_frames(self.source, self.frames, self.licence)
            if left_over:
                print(f"{len(left_over)} frames fill no window of {self.frames}: {left_over[0]}, …", file=sys.stderr)
            return windows[: self.limit]
        return list_sources(self.source, self.licence, self.limit)

    def check_of_sources(self) -> Check | None:
        """What the survey asks of images that come with further files."""
        if self.degraded:
            (recipe,) = self.recipes()
            return pair_check(recipe.task, recipe.settings)
        return check_frames if self.frames else None

    def load_guard(self) -> "Guard | None":
        """The test images that `guard` names, indexed by Ray tasks. Raises UserError."""
        if not self.guard:
            return None
        from pipelines.leaks import load_guard  # it compiles its look-up

        return load_guard(self.guard)

    def _check_blur(self) -> None:
        settings = settings_of("deblur", self.tasks.get("deblur", {}))
        if self.frames and "blur" in self.tasks.get("deblur", {}) and settings.blur.options != ("video",):
            raise UserError(f"frames={self.frames}: a video's frames are averaged, leave tasks.deblur.blur out")
        if not self.frames and "video" in settings.blur.options:
            raise UserError("tasks.deblur.blur=video averages the frames of a video: say how many with frames=")
        if "kernel" in settings.blur.options and settings.kernels == fixed(""):
            raise UserError("tasks.deblur.blur=kernel: say which with tasks.deblur.kernels=FILE (.npy, .npz) or FOLDER")

    def _check_given(self, task: str) -> None:
        idle = [name for name in self.tasks.get(task, {}) if name not in OF_GIVEN.get(task, ())]
        if idle and not self.preview:  # a sheet shows beside them what the factory would make of the same clean images
            raise UserError(f"tasks.{task}.{idle[0]} has no effect on pairs that are given (degraded=): leave it out")
        if task == "demosaic" and len(settings_of(task, self.tasks.get(task, {})).pattern.options) > 1:
            raise UserError(
                "tasks.demosaic.pattern: pairs that are given have one pattern, which the files do not tell"
            )

    def check_files(self) -> None:
        """See that the files asked for can be written, before the work is done. Raises UserError."""
        if self.preview:
            check_writable(Path(self.preview))
        if self.report:
            check_report(Path(self.report))


@dataclass
class RenewalOptions(Options):
    """What `regenerate.py` takes."""

    keep: int = field(default=3, metadata=about("versions kept, beside pinned ones"))
    only_if_changed: bool = field(default=False, metadata=about("act only if sources, settings or format changed"))
    fraction: float = field(default=1.0, metadata=about("share of the training shards that are renewed, oldest first"))
    max_shrink: float = field(
        default=0.1, metadata=about("a version that has fewer pairs than the live one by more than this share fails")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 1:
            raise UserError(f"keep={self.keep}: at least one version is kept")
        for name in ("fraction", "max_shrink"):
            check_share(name, getattr(self, name))
        if not self.fraction:
            raise UserError("fraction=0 renews nothing: give a share above 0")


def check_share(name: str, value: float) -> None:
    """Raises UserError for what is not a share."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value}: a share from 0 to 1 is wanted")
