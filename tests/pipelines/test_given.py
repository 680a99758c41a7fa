"""Pairs that are given and frames that are averaged go through the same factory as made ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kgt.imaging import mosaic, read_image, to_rgb, write_image
from pipelines import synthesize, versions
from pipelines.sample import sample_photographs
from pipelines.shards import decode_pair, read_shard
from pipelines.storage import Store
from tests.pipelines.runs import arguments

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.mark.parametrize("task", ["deblur", "sr", "demosaic"])
def test_given_pairs_go_through_the_same_factory(task: str, tmp_path: Path, file_store: Store) -> None:
    scale = 4 if task == "sr" else 1
    rng = np.random.default_rng(0)
    both = {}
    photographs = [image for image in map(read_image, sample_photographs("train")) if image.ndim == 3]
    for number in range(4):
        clean = photographs[number][100:196, 100:220]
        low = clean[::scale, ::scale] if task != "demosaic" else mosaic(to_rgb(clean), "gbrg")
        low = np.clip(low.astype(int) + rng.integers(-3, 4, low.shape), 0, 255).astype(np.uint8)
        for name, pixels in (("clean", clean), ("degraded", low)):
            write_image(tmp_path / name / f"{name}_{number}.png", pixels)
        both[to_rgb(clean).tobytes()] = low if task == "demosaic" else to_rgb(low)
    asked = arguments(tmp_path / "clean", file_store, f"task={task}", f"degraded={tmp_path}/degraded", "grid=48")
    extra = {"sr": ["tasks.sr.scale=4"], "demosaic": ["tasks.demosaic.pattern=gbrg"]}.get(task, [])
    assert synthesize.main([*asked, "crops=9", *extra]) == 0
    manifest = versions.current(file_store, task)
    assert manifest.recipe["paired"]
    seen = 0
    for shard in manifest.shards:
        for sample in read_shard(file_store.open(manifest.key(shard))):
            pair = decode_pair(sample)
            assert pair.meta["paired"]
            assert pair.meta["parameters"] == {"sr": {"scale": 4}, "demosaic": {"pattern": "gbrg"}}.get(task, {})
            top, left, height, width = pair.meta["crop"]
            assert any(
                np.array_equal(
                    np.frombuffer(clean, np.uint8).reshape(96, 120, 3)[top:, left:][:height, :width], pair.clean
                )
                and np.array_equal(
                    low[top // scale :, left // scale :][: height // scale, : width // scale], pair.degraded
                )
                for clean, low in both.items()
            )
            seen += 1
    assert seen == 4 * 6


def test_given_pairs_are_shown_beside_what_the_factory_would_make(photos: Path, tmp_path: Path) -> None:
    for path in photos.rglob("*.png"):
        write_image(tmp_path / "degraded" / path.relative_to(photos), 255 - read_image(path))
    asked = [f"source={photos}", f"degraded={tmp_path}/degraded", "task=weather", "crop=48", "plan_only=true"]
    assert synthesize.main([*asked, "tasks.weather.kind=rain", f"preview={tmp_path}/sheet.png"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 2 * 192 < sheet.height < 3 * 192


def test_frames_of_a_video_are_averaged(tmp_path: Path, file_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    photograph = to_rgb(read_image(sample_photographs("train")[4]))
    for scene in range(3):
        for number in range(11):
            frame = photograph[60 * scene :, 3 * number :][:64, :80]
            write_image(tmp_path / "video" / f"scene {scene}" / f"{number}.png", frame)
    asked = arguments(tmp_path / "video", file_store, "task=deblur", "frames=5", "tasks.deblur.space=encoded")
    quiet = ["tasks.deblur.read=1e-9", "tasks.deblur.shot=1e-9"]
    assert synthesize.main([*asked, *quiet]) == 0
    assert "3 frames fill no window of 5" in capsys.readouterr().err
    manifest = versions.current(file_store, "deblur")
    assert manifest.sources["images"] == 6
    middles = {}
    for shard in manifest.shards:
        for sample in read_shard(file_store.open(manifest.key(shard))):
            pair = decode_pair(sample)
            assert (pair.meta["parameters"]["blur"], pair.meta["parameters"]["frames"]) == ("video", 5)
            top, left, height, width = pair.meta["crop"]
            for scene in range(3):
                for first in (0, 5):
                    frames = [
                        photograph[60 * scene + top :, 3 * (first + n) + left :][:height, :width] for n in range(5)
                    ]
                    if np.array_equal(frames[2], pair.clean):
                        middles.setdefault(scene, set()).add(shard.split)
                        error = np.abs(np.mean(frames, axis=0) - pair.degraded)
                        assert error.max() <= 1
    assert sorted(middles) == [0, 1, 2]
    assert all(len(sides) == 1 for sides in middles.values()), "a scene is on one side"
