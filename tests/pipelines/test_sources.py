"""Sources and their survey: what is found, what is refused and why."""

import shutil
from pathlib import Path

import boto3
import numpy as np
import pytest
from PIL import Image

from kgt.errors import UserError
from kgt.imaging import read_image
from pipelines.sample import PHOTOGRAPHS, sample_photographs
from pipelines.sources import list_sources
from pipelines.survey import survey


def test_the_sample_is_there_and_usable() -> None:
    for photograph in PHOTOGRAPHS:
        assert min(read_image(photograph.path).shape[:2]) >= 256
        assert photograph.licence
    held_out = {path.name for path in sample_photographs("val")}
    assert held_out == {"astronaut.png", "chelsea.png", "coffee.png", "flower.jpg", "rocket.jpg"}
    assert not held_out & {path.name for path in sample_photographs("train")}
    assert {source.split for source in list_sources("sample", "")} == {"train", "val"}


def test_a_folder_is_searched_through(photos: Path) -> None:
    found = list_sources(str(photos), "mine")
    assert [source.name for source in found][-1] == "photo 4.png"
    assert "more/photo 5.png" in {source.name for source in found}
    assert {source.licence for source in found} == {"mine"}
    assert found[0].read() == Path(found[0].location).read_bytes()


def test_a_bucket(s3_bucket: str, photos: Path) -> None:
    for path in photos.rglob("*.png"):
        boto3.client("s3").upload_file(str(path), s3_bucket, f"raw/{path.relative_to(photos)}")
    boto3.client("s3").put_object(Bucket=s3_bucket, Key="raw/notes.txt", Body=b"")
    boto3.client("s3").put_object(Bucket=s3_bucket, Key="rawer/x.png", Body=b"")
    found = list_sources(f"s3://{s3_bucket}/raw", "mine")
    assert sorted(source.name for source in found) == sorted(s.name for s in list_sources(str(photos), ""))
    assert found[0].read() == (photos / found[0].name).read_bytes()


def test_places_that_are_none(tmp_path: Path, s3_bucket: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        list_sources(str(tmp_path / "nowhere"), "")
    with pytest.raises(UserError, match="no image"):
        list_sources(str(tmp_path), "")
    with pytest.raises(UserError, match="no image there"):
        list_sources(f"s3://{s3_bucket}/raw", "")
    with pytest.raises(UserError, match="unknown scheme"):
        list_sources("gs://bucket/x", "")


@pytest.fixture
def mixed(photos: Path) -> Path:
    """Good photographs with some of every bad kind between them."""
    good = (photos / "photo 0.png").read_bytes()
    (photos / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "text.png").write_text("not an image")
    Image.fromarray(np.full((64, 64), 999, np.uint16)).save(photos / "deep.png")
    Image.new("CMYK", (64, 64)).save(photos / "cmyk.jpg")
    Image.new("RGBA", (64, 64), (1, 2, 3, 4)).save(photos / "alpha.png")
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    Image.new("RGB", (300, 40)).save(photos / "narrow.png")
    shutil.copy(photos / "photo 1.png", photos / "copy.png")
    return photos


@pytest.mark.usefixtures("ray_local")
def test_the_survey_says_what_is_not_used_and_why(mixed: Path) -> None:
    seen = []
    result = survey(list_sources(str(mixed), ""), 48, 0.6, lambda: seen.append(1))
    assert len(seen) == 14
    assert {(reject.name, reject.reason) for reject in result.rejects} == {
        ("cut.png", "truncated"),
        ("text.png", "not-an-image"),
        ("deep.png", "16-bit"),
        ("cmyk.jpg", "cmyk"),
        ("alpha.png", "alpha"),
        ("dot.png", "too-small"),
        ("narrow.png", "smaller-than-crop"),
        ("photo 1.png", "duplicate"),
    }
    assert len(result.images) == 6
    assert [i.digest for i in result.images] == sorted(i.digest for i in result.images)
    assert {(i.height, i.width) for i in result.images} == {(80 + n, 96) for n in range(6)}


@pytest.mark.usefixtures("ray_local")
def test_too_many_bad_images_fail_the_run(mixed: Path) -> None:
    with pytest.raises(UserError, match=r"7 of 14 source images cannot be used, such as alpha.png: .*max_reject"):
        survey(list_sources(str(mixed), ""), 48, 0.4)
    with pytest.raises(UserError, match=r"14 of 14 .*nothing is left"):
        survey(list_sources(str(mixed), ""), 4000, 1.0)
