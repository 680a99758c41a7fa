"""The plan: every pair in exactly one shard, sides apart, and nothing that depends on anything but names."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.errors import UserError
from kgt.tasks import TASKS
from pipelines.degradations.deblur.kernels import encode
from pipelines.plan import Part, PlannedShard, Recipe, identity, plan, recipe_of, renewed, split_images
from pipelines.sources import Source
from pipelines.survey import Image, digest_of
from pipelines.versions import ShardEntry

COMMON = {
    "seed": 0,
    "crop": 48,
    "crops": 5,
    "grid": None,
    "max_flatness": 0.9,
    "paired": False,
    "val_fraction": 0.2,
    "shard_mib": 256.0,
    "shards_min": 4,
}


def image(name: str, height: int = 100, width: int = 120, **changes: str) -> Image:
    source = Source(name, **({"location": f"/x/{name}", "licence": "CC0"} | changes))
    return Image(source, digest_of(name.encode()), height, width)


def recipe(task: str = "jpeg", **changes: object) -> Recipe:
    return recipe_of(task, {}, **(COMMON | changes))


sizes = st.integers(48, 200)
sources = st.lists(st.tuples(sizes, sizes), min_size=1, max_size=12).map(
    lambda shapes: [image(f"{n}.png", *shape) for n, shape in enumerate(shapes)]
)


@given(sources, st.sampled_from(list(TASKS)), st.integers(1, 40), st.integers(1, 9), st.sampled_from([256.0, 0.02]))
def test_every_pair_is_in_one_shard(
    images: list[Image], task: str, crops: int, shards_min: int, shard_mib: float
) -> None:
    made = recipe(task, crops=crops, shards_min=shards_min, shard_mib=shard_mib)
    shards = plan(made, images, epoch=1)
    pairs = [(p.image.source.name, n) for shard in shards for p in shard.parts for n in range(p.first, p.last)]
    assert sorted(pairs) == sorted((i.source.name, n) for i in images for n in range(made.pairs_of(i)))
    assert len({shard.name for shard in shards}) == len(shards)
    for split in ("train", "val"):
        counts = [shard.samples for shard in shards if shard.split == split]
        assert max(counts, default=0) - min(counts, default=0) <= 1
        assert all(counts)
    train = [shard for shard in shards if shard.split == "train"]
    assert len(train) >= min(shards_min, sum(shard.samples for shard in train))


@given(sizes, sizes, st.sampled_from(list(TASKS)), st.integers(1, 60), st.integers(1, 3))
def test_crops_differ_fit_and_are_aligned(height: int, width: int, task: str, crops: int, epoch: int) -> None:
    made, source = recipe(task, crops=crops), image("a", height, width)
    places = made.crops_of(source, epoch)
    step = {"jpeg": 16, "demosaic": 2, "sr": 2}.get(task, 1)
    assert len(set(places)) == len(places) == made.pairs_of(source)
    for top, left, rows, columns in places:
        assert rows == columns == made.side
        assert top % step == left % step == 0
        assert 0 <= top <= height - rows
        assert 0 <= left <= width - columns


def test_an_image_of_the_crop_s_own_size_gives_one_pair() -> None:
    assert recipe(crops=16).pairs_of(image("a", 48, 48)) == 1


def test_crops_are_fresh_in_every_epoch_and_for_every_seed() -> None:
    source = image("a", 400, 400)
    draws = [recipe(seed=seed).crops_of(source, epoch) for seed in (0, 1) for epoch in (1, 2)]
    assert len({tuple(draw) for draw in draws}) == 4


@given(sources, st.floats(0, 1))
def test_sides_are_apart_and_neither_is_empty(images: list[Image], fraction: float) -> None:
    sides = split_images(images, fraction)
    assert sorted(i.source.name for side in sides.values() for i in side) == sorted(i.source.name for i in images)
    assert sides["train"]
    assert sides["val"] or len(images) == 1


def test_an_image_never_changes_sides() -> None:
    images = [image(f"{n}.png") for n in range(200)]
    few, many = split_images(images[:100], 0.2), split_images(images, 0.2)
    assert {i.source.name for i in few["val"]} <= {i.source.name for i in many["val"]}
    assert 10 < len(many["val"]) < 70


def test_a_source_s_own_word_on_sides_counts() -> None:
    images = [image("a", split="val"), image("b", split="train"), image("c", split="val")]
    assert [i.source.name for i in split_images(images, 0.0)["train"]] == ["b"]


def test_what_the_source_holds_out_is_never_trained_on() -> None:
    with pytest.raises(UserError, match="none is left to train on"):
        split_images([image("a", split="val"), image("b", split="val")], 0.2)
    sides = split_images([image("a", split="val"), image("b"), image("c", split="val")], 1.0)
    assert [i.source.name for i in sides["train"]] == ["b"]
    assert split_images([image("a", split="train"), image("b", split="train")], 0.2)["val"] == []


def test_the_name_covers_all_that_decides_the_bytes() -> None:
    base = PlannedShard(recipe(), "train", 1, (Part(image("a"), 0, 3),))
    others = [
        dataclasses.replace(base, recipe=recipe("denoise")),
        dataclasses.replace(base, recipe=recipe_of("jpeg", {"quality": 10}, **COMMON)),
        dataclasses.replace(base, recipe=recipe(seed=1)),
        dataclasses.replace(base, recipe=recipe(crop=64)),
        dataclasses.replace(base, recipe=recipe(crops=6)),
        dataclasses.replace(base, recipe=recipe(grid=32)),
        dataclasses.replace(base, recipe=recipe(max_flatness=0.5)),
        dataclasses.replace(base, recipe=recipe(paired=True)),
        dataclasses.replace(base, split="val"),
        dataclasses.replace(base, epoch=2),
        dataclasses.replace(base, parts=(Part(image("b"), 0, 3),)),
        dataclasses.replace(base, parts=(Part(image("a"), 0, 2),)),
        dataclasses.replace(base, parts=(Part(image("a", licence="other"), 0, 3),)),
    ]
    assert len({shard.name for shard in [base, *others]}) == 14
    divided = recipe(val_fraction=0.3, shard_mib=1.0, shards_min=2)
    assert dataclasses.replace(base, recipe=divided).name == base.name
    moved = Part(dataclasses.replace(image("a"), source=Source("renamed", "/y", "CC0")), 0, 3)
    assert dataclasses.replace(base, parts=(moved,)).name == base.name


def test_a_group_is_on_one_side() -> None:
    images = [image(f"{n}.png", group=f"scene {n // 5}") for n in range(60)]
    sides = split_images(images, 0.3)
    groups = [{i.source.group for i in side} for side in sides.values()]
    assert all(groups)
    assert not groups[0] & groups[1]


def test_flat_crops_are_dropped() -> None:
    half = np.packbits([[1, 1, 0, 0]] * 4).tobytes()  # of 128×128: the right half is flat
    seen = dataclasses.replace(image("a", 128, 128), detail=half)
    made = recipe(crops=1000, max_flatness=0.5)
    assert max(crop.left + crop.width for crop in made.crops_of(seen, 1)) <= 96
    assert recipe(crops=10_000, max_flatness=1.0).pairs_of(seen) > made.pairs_of(seen) > 0
    with pytest.raises(UserError, match=r"flatter than max_flatness=0\.5"):
        plan(made, [dataclasses.replace(seen, detail=bytes(2))], 1)


def test_crops_on_a_grid_are_the_same_in_every_epoch() -> None:
    made = recipe(crops=100, grid=40)
    first, second = (set(made.crops_of(image("a"), epoch)) for epoch in (1, 2))
    assert first == second
    assert {crop.top for crop in first} == {0, 32, 48}  # jpeg's crops start on multiples of 16


@given(sources, st.floats(0.01, 1.0))
def test_a_renewal_takes_the_oldest_shards_and_ends_with_all_of_them(images: list[Image], fraction: float) -> None:
    shards = plan(recipe(), images, 1)
    entries = [
        ShardEntry(shard.name, shard.split, shard.epoch, shard.samples, 1, "0" * 64, 0.0, 0.0) for shard in shards
    ]
    train = sum(shard.split == "train" for shard in shards)
    ages = [0] * train
    for epoch in range(2, 8):
        made = renewed(plan(recipe(), images, epoch), entries, fraction)
        fresh = [shard.epoch == epoch for shard in made if shard.split == "train"]
        assert sum(fresh) == math.ceil(fraction * train)
        assert min(ages) >= max(ages) - math.ceil(1 / fraction)
        ages = [epoch if new else age for new, age in zip(fresh, ages, strict=True)]
        assert {s.name for s in made if s.epoch < epoch} <= {entry.name for entry in entries}
        entries = [dataclasses.replace(e, name=s.name, epoch=s.epoch) for e, s in zip(entries, made, strict=True)]
    assert renewed(plan(recipe(), images, 9), entries, 0.0) == made


def test_validation_shards_are_the_same_in_every_version() -> None:
    images = [image(f"{n}.png") for n in range(10)]
    first, second = ({(s.split, s.name) for s in plan(recipe(), images, epoch)} for epoch in (1, 2))
    assert {split for split, _ in first & second} == {"val"}
    assert {split for split, _ in first - second} == {"train"}


def test_identity_is_that_of_recipe_and_sources() -> None:
    assert identity(recipe(), "a") == identity(recipe(), "a")
    assert len({identity(recipe(), "a"), identity(recipe(), "b"), identity(recipe(seed=1), "a")}) == 3


def test_crops_too_small_to_be_of_use() -> None:
    with pytest.raises(UserError, match="crop=31 is too small for jpeg"):
        recipe(crop=31)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kernels": encode(np.ones((1, 1)))}, "kernels has no effect with blur=shake"),
        ({"blur": "video", "path": 20}, "path has no effect with blur=video"),
        ({"space": "encoded", "highlight": 2}, "highlight has no effect with space=encoded"),
    ],
)
def test_a_setting_that_cannot_count_is_refused(changes: dict, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^tasks\.deblur\.{reason}: leave it out$"):
        recipe_of("deblur", changes, **COMMON)
