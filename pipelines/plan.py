"""The plan: which pairs go into which shard. A pure function of the survey, the options and the epoch.

Every image gives up to `crops` pairs. Images in the order of their digests, and their pairs in order, are one long row
of pairs; a shard is a range of it, so shards are of equal size (± 1 pair) and a source is decoded once for each shard.
The plan holds ranges, not crops: those are drawn where the shard is made, from the image's own names.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from kgt.errors import UserError
from kgt.tasks import get_task
from pipelines.crops import Places
from pipelines.degradations import DEGRADATIONS, Crop, pair_rng, settings_of
from pipelines.degradations.values import idle, plain
from pipelines.manifest import ShardEntry, Split
from pipelines.shards import FORMAT
from pipelines.survey import Image

MIN_SIDE = 32  # pixels of a crop: less is hardly an image, and no measure of one

# What in a recipe decides which shard a pair goes to, but nothing about the pair.
_DIVISION = ("val_fraction", "shard_mib", "shards_min")
# The settings that say something of pairs that are given.
OF_GIVEN = {"sr": ("scale",), "demosaic": ("pattern",)}
# Validation pairs are those of the first epoch in every version: figures stay comparable and the shards are shared.
_VALIDATION_EPOCH = 1
# Bytes of a shard for a pixel of the clean crop, both images together, as measured on Kodak's photographs.
_BYTES_A_PIXEL = {"deblur": 2.7, "jpeg": 2.2, "denoise": 7.4, "weather": 2.6, "demosaic": 2.4, "sr": 1.8}


@dataclass(frozen=True)
class Recipe:
    """All that decides the pairs of one task's version, beside the source images and the epoch.

    `crop` is the side of the clean crop in pixels, `crops` the most that one image gives; `grid` the spacing of a grid
    they lie on (None: they lie anywhere); of a crop's blocks at most the share `max_flatness` is flat. `paired`: the
    degraded images are given with the clean ones.
    """

    task: str
    settings: dict[str, Any]
    seed: int
    crop: int
    crops: int
    grid: int | None
    max_flatness: float
    paired: bool
    val_fraction: float
    shard_mib: float
    shards_min: int

    @cached_property
    def side(self) -> int:
        """The side of this task's crops: `crop`, rounded down to what its degradation can align."""
        return self.crop - self.crop % self._align

    @cached_property
    def _align(self) -> int:
        return DEGRADATIONS[self.task].align(settings_of(self.task, self.settings))

    def pairs_of(self, image: Image) -> int:
        """How many different crops the image gives."""
        return min(self.crops, len(self._places(image)))

    def crops_of(self, image: Image, epoch: int) -> list[Crop]:
        """The image's crops of that epoch, all different, at places that the degradation can align."""
        rng = pair_rng(self.seed, epoch, self.task, image.digest, Crop(0, 0, image.height, image.width))
        places = self._places(image)
        drawn = places.draw(rng, min(self.crops, len(places)))
        return [Crop(top, left, self.side, self.side) for top, left in drawn]

    def _places(self, image: Image) -> Places:
        detail = image.detail if self.max_flatness < 1 else b""
        return Places(image.height, image.width, self.side, self._align, self.grid, detail, self.max_flatness)


@dataclass(frozen=True)
class Part:
    """The pairs `first` to `last` (not included) of one image."""

    image: Image
    first: int
    last: int


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be made: the row of the Ray Data job."""

    recipe: Recipe
    split: Split
    epoch: int
    parts: tuple[Part, ...]

    @property
    def samples(self) -> int:
        """Pairs in it."""
        return sum(part.last - part.first for part in self.parts)

    @cached_property
    def name(self) -> str:
        """A function of everything that decides its bytes."""
        recipe = {name: value for name, value in asdict(self.recipe).items() if name not in _DIVISION}
        parts = [(part.image.digest, part.image.source.licence, part.first, part.last) for part in self.parts]
        names = [FORMAT, recipe, self.epoch, self.split, parts]
        return f"{self.split}-{fingerprint(names)}"


def fingerprint(value: Any) -> str:
    """blake2b, 128 bits, of the canonical JSON of `value`."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def recipe_of(task: str, changes: dict[str, Any], **common: Any) -> Recipe:
    """The task's recipe with the user's `tasks.<task>.*` changes.

    Raises UserError, also for too small a crop and for a change that has no effect.
    """
    chosen = settings_of(get_task(task).name, changes)
    for reason in idle(chosen, changes):
        raise UserError(f"tasks.{task}.{reason}: leave it out")
    settings = plain(chosen)
    if common["paired"]:
        settings = {name: settings[name] for name in OF_GIVEN.get(task, ())}
    recipe = Recipe(task, settings, **common)
    if recipe.side < MIN_SIDE:
        raise UserError(f"crop={recipe.crop} is too small for {task}: {MIN_SIDE} pixels are the least")
    return recipe


def identity(recipe: Recipe, sources: str) -> str:
    """What two versions have in common that differ in their randomness only. `sources` is the images' fingerprint."""
    return fingerprint([FORMAT, asdict(recipe), sources])


def split_images(images: Sequence[Image], val_fraction: float) -> dict[Split, list[Image]]:
    """The images of each side, by the source's own word or else by a hash of the digest, whatever others there are.

    Images of one group stay together. A side that would be empty gets one image (or group) that the source says nothing
    of, the one whose hash is nearest; with more images that one may be back on its own side. Raises UserError if no
    image is left to train on.
    """
    lots: dict[float, list[Image]] = {}
    sides: dict[Split, list[Image]] = {"train": [], "val": []}
    for image in images:
        if image.source.split:
            sides[image.source.split].append(image)
        else:
            lots.setdefault(_lot(image), []).append(image)
    for lot, members in lots.items():
        sides["val" if lot < val_fraction else "train"] += members
    if lots and not sides["val"] and len(sides["train"]) > len(lots[min(lots)]):
        sides["val"] = lots[min(lots)]
        sides["train"] = [image for image in sides["train"] if image not in sides["val"]]
    if not sides["train"]:
        if not lots:
            raise UserError(
                f"every image used ({len(images)}) is one that the source holds out, none is left to train on: "
                "raise limit, or take a source with more images"
            )
        sides["train"] = lots[max(lots)]
        sides["val"] = [image for image in sides["val"] if image not in sides["train"]]
    return {side: sorted(members, key=lambda image: image.digest) for side, members in sides.items()}


def plan(recipe: Recipe, images: Sequence[Image], epoch: int) -> list[PlannedShard]:
    """The shards of one task's version, train before val. Raises UserError if no image has a crop to train on."""
    shards = []
    for split, members in split_images(images, recipe.val_fraction).items():
        counts = [recipe.pairs_of(image) for image in members]
        pairs = sum(counts)
        if split == "train" and not pairs:
            raise UserError(
                f"every crop of {recipe.side} pixels that {recipe.task} could train on is flatter than "
                f"max_flatness={recipe.max_flatness:g}: raise that, or lower crop"
            )
        by_size = math.ceil(pairs * pair_bytes(recipe) / (recipe.shard_mib * 2**20))
        count = min(pairs, max(by_size, recipe.shards_min if split == "train" else 1))
        bounds = [round(pairs * index / count) for index in range(count + 1)] if count else [0]
        split_epoch = epoch if split == "train" else _VALIDATION_EPOCH
        shards += [PlannedShard(recipe, split, split_epoch, parts) for parts in _ranges(members, counts, bounds)]
    return shards


def renewed(shards: Sequence[PlannedShard], live: Sequence[ShardEntry], fraction: float) -> list[PlannedShard]:
    """`shards` with fresh randomness in `fraction` of the training shards only: those whose own is the oldest.

    The others are as in the `live` version, which has the same identity and so, shard for shard, the same images.
    """
    train = [entry for entry in live if entry.split == "train"]
    by_age = sorted(train, key=lambda entry: (entry.epoch, entry.name))
    fresh = {entry.name for entry in by_age[: math.ceil(fraction * len(train))]}
    return [
        shard if entry.name in fresh else replace(shard, epoch=entry.epoch)
        for shard, entry in zip(shards, live, strict=True)
    ]


def pair_bytes(recipe: Recipe) -> float:
    """What a pair takes in a shard, about."""
    return _BYTES_A_PIXEL[recipe.task] * recipe.side**2


def _ranges(images: Sequence[Image], counts: Sequence[int], bounds: Sequence[int]) -> list[tuple[Part, ...]]:
    """The images' pairs, `counts` of each, numbered through and cut at `bounds`."""
    parts: list[list[Part]] = [[] for _ in bounds[1:]]
    shard, number = 0, 0
    for image, pairs in zip(images, counts, strict=True):
        first = 0
        while first < pairs:
            if number == bounds[shard + 1]:
                shard += 1
            last = min(pairs, first + bounds[shard + 1] - number)
            parts[shard].append(Part(image, first, last))
            number += last - first
            first = last
    return [tuple(members) for members in parts]


def _lot(image: Image) -> float:
    """A number in [0, 1) that is the image's own, or its group's: neighbouring frames of a video are on one side."""
    name = image.source.group or image.digest
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"kgt split").digest()) / 2**64
