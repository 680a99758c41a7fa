"""One shard: the pairs that were planned, kept if they are there, made again to the same bytes if not."""

import dataclasses
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from kgt.errors import UserError
from kgt.imaging import demosaic_malvar, imresize, psnr, read_image, to_rgb, write_image
from kgt.tasks import TASKS
from pipelines.degradations import Crop, Pair, degrade_region, pair_rng, settings_of
from pipelines.plan import Part, PlannedShard, plan, recipe_of
from pipelines.shards import decode_pair, read_shard
from pipelines.sources import Source
from pipelines.storage import Store, Unavailable
from pipelines.survey import Image, digest_of
from pipelines.synthesis import input_psnr, make_shard, pairs_of
from pipelines.versions import pool_key

COMMON = {
    "seed": 7,
    "crop": 48,
    "crops": 2,
    "grid": None,
    "max_flatness": 0.9,
    "paired": False,
    "val_fraction": 0.2,
    "shard_mib": 256.0,
    "shards_min": 1,
}


@pytest.fixture
def images(photos: Path) -> list[Image]:
    found = []
    for path in sorted(photos.rglob("*.png")):
        height, width = read_image(path).shape[:2]
        found.append(Image(Source(path.name, str(path), "CC0"), digest_of(path.read_bytes()), height, width))
    return found


def planned(images: list[Image], task: str) -> PlannedShard:
    return plan(recipe_of(task, {}, **COMMON), images, epoch=1)[0]


@pytest.mark.parametrize("task", list(TASKS))
def test_a_shard_holds_the_planned_pairs(task: str, images: list[Image], file_store: Store) -> None:
    shard = planned(images, task)
    entry = make_shard({"shard": shard, "store": file_store})["entry"]
    with file_store.open(pool_key(task, shard.name)) as file:
        pairs = [decode_pair(sample) for sample in read_shard(file)]
    assert len(pairs) == entry.samples == shard.samples

    by_digest = {image.digest: image for image in images}
    figures = []
    for pair in pairs:
        meta = pair.meta
        image, crop = by_digest[meta["source"]], Crop(*meta["crop"])
        pixels = to_rgb(read_image(Path(image.source.location)))
        rng = pair_rng(7, 1, task, image.digest, crop)
        again = degrade_region(task, pixels, crop, settings_of(task, {}), rng)
        assert meta["parameters"] == again.parameters
        assert (meta["task"], meta["seed"], meta["epoch"], meta["licence"]) == (task, 7, 1, "CC0")
        assert meta["clean_size"] == list(pair.clean.shape) == [48, 48, 3]
        assert meta["degraded_size"] == list(pair.degraded.shape)
        assert np.array_equal(pair.clean, again.clean)
        assert np.abs(pair.degraded.astype(np.float64) - again.degraded).max() < 0.01 / 255
        figures.append(input_psnr(task, again))
    assert entry.psnr_sum == pytest.approx(sum(figures))
    assert entry.psnr_squares == pytest.approx(sum(figure**2 for figure in figures))


@pytest.mark.parametrize(
    "trouble", ["nothing", "no object", "cut object", "no record", "damaged record", "strange record"]
)
def test_a_complete_shard_is_kept_and_another_made_again(trouble: str, images: list[Image], store: Store) -> None:
    row = {"shard": planned(images, "jpeg"), "store": store}
    tar, record = (pool_key("jpeg", row["shard"].name, suffix) for suffix in ("tar", "json"))
    first = make_shard(row)
    assert not first["kept"]
    data, facts, etag = store.get(tar), store.get(record), store.head(tar).etag

    if trouble == "no object":
        store.delete(tar)
    elif trouble == "cut object":
        store.put(tar, data[:1000])
    elif trouble == "no record":
        store.delete(record)
    elif trouble == "damaged record":
        store.put(record, b'{"name":')
    elif trouble == "strange record":
        store.put(record, json.dumps(json.loads(facts) | {"psnr_sum": "1"}).encode())
    again = make_shard(row)
    assert again["kept"] == (trouble == "nothing")
    assert again["entry"] == first["entry"]
    assert (store.get(tar), store.get(record)) == (data, facts)
    if trouble == "nothing" and store.url.startswith("file"):
        assert store.head(tar).etag == etag


def test_a_store_that_does_not_answer_has_not_said_that_a_shard_is_missing(
    images: list[Image], file_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(key: str) -> bytes:
        raise Unavailable("no answer")

    monkeypatch.setattr(file_store, "open", silent)
    with pytest.raises(Unavailable):
        make_shard({"shard": planned(images, "jpeg"), "store": file_store})
    assert list(file_store.list("")) == []


def test_of_a_worker_that_is_killed_no_spool_is_left(
    images: list[Image], file_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    found = []
    monkeypatch.setattr(file_store, "put", lambda *_, **__: found.append(list(folder.iterdir())))
    make_shard({"shard": planned(images, "jpeg"), "store": file_store})
    assert found == [[], []]


def test_parts_of_an_image_are_the_whole(images: list[Image], file_store: Store) -> None:
    """Where a shard begins or ends changes no pair."""
    recipe = recipe_of("denoise", {}, **(COMMON | {"crops": 5}))
    samples = {}
    for cuts in ((0, 5), (0, 2, 5)):
        for first, last in itertools.pairwise(cuts):
            shard = PlannedShard(recipe, "train", 1, (Part(images[0], first, last),))
            make_shard({"shard": shard, "store": file_store})
            with file_store.open(pool_key("denoise", shard.name)) as file:
                for sample in read_shard(file):
                    assert samples.setdefault(sample["__key__"], sample) == sample
    assert len(samples) == 5


def test_a_source_that_changed_or_went_stops_the_shard(images: list[Image], file_store: Store) -> None:
    shard = planned(images, "jpeg")
    victim = Path(shard.parts[0].image.source.location)
    victim.write_bytes(Path(shard.parts[1].image.source.location).read_bytes())
    with pytest.raises(UserError, match=r"changed while the run was going on"):
        make_shard({"shard": shard, "store": file_store})
    victim.unlink()
    with pytest.raises(UserError, match=r"disappeared while the run was going on"):
        make_shard({"shard": shard, "store": file_store})
    assert list(file_store.list("")) == []


def test_input_psnr_is_the_task_s_own_measure(images: list[Image]) -> None:
    clean = to_rgb(read_image(Path(images[0].source.location)))[:64, :64]
    noisy = (clean / 255 + np.random.default_rng(0).normal(0, 25 / 255, clean.shape)).astype(np.float32)
    assert input_psnr("denoise", Pair(clean, noisy, {})) == pytest.approx(psnr(noisy * 255, clean), abs=1e-4)
    other = np.roll(clean, 1, axis=0)
    assert input_psnr("jpeg", Pair(clean, other, {})) == pytest.approx(psnr(other, clean), abs=1e-9)
    assert input_psnr("jpeg", Pair(clean, clean, {})) == 100.0
    small = imresize(clean, 1 / 2)
    enlarged = psnr(imresize(small, 2), clean, space="y", border=2)
    assert input_psnr("sr", Pair(clean, small, {"scale": 2})) == pytest.approx(enlarged, abs=0.2)
    rng = np.random.default_rng(0)
    mosaic = degrade_region("demosaic", clean, Crop(0, 0, 64, 64), settings_of("demosaic", {}), rng)
    expected = psnr(demosaic_malvar(mosaic.degraded), clean, border=10)
    assert input_psnr("demosaic", mosaic) == expected


@pytest.mark.parametrize("task", ["jpeg", "denoise"])
@pytest.mark.parametrize("gray", [True, False])
def test_a_gray_photograph_keeps_its_range(task: str, gray: bool, tmp_path: Path) -> None:
    """Gray pairs of it are the file's own pixels; a luma of 16–235 would be another picture."""
    pixels = np.arange(64 * 64, dtype=np.int64).reshape(64, 64) % 256
    write_image(tmp_path / "gray.png", pixels.astype(np.uint8))
    data = (tmp_path / "gray.png").read_bytes()
    image = Image(Source("gray.png", str(tmp_path / "gray.png"), "CC0"), digest_of(data), 64, 64)
    changes = {"gray": gray} | ({"quality": 90} if task == "jpeg" else {"sigma": 5})
    recipe = recipe_of(task, changes, **(COMMON | {"crop": 64, "crops": 1}))
    (shard,) = plan(recipe, [image], 1)
    ((_, pair, _),) = pairs_of(shard.parts[0], shard)
    assert np.array_equal(pair.clean, pixels if gray else np.repeat(pixels[..., None], 3, 2))
    assert pair.degraded.shape == pair.clean.shape


def test_licence_is_part_of_the_name(images: list[Image]) -> None:
    relicensed = [
        dataclasses.replace(image, source=dataclasses.replace(image.source, licence="other")) for image in images
    ]
    assert planned(images, "sr").name != planned(relicensed, "sr").name
