"""Sources: what is found at an address."""

import os
from pathlib import Path

import boto3
import pytest

from kgt.errors import UserError
from kgt.imaging import read_image
from pipelines import sources
from pipelines.sample import PHOTOGRAPHS, sample_photographs
from pipelines.sources import Source, list_sources


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


def test_a_folder_is_read_part_by_part_and_no_further_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b/2.png", "b/1.JPG", "b.png", "a/x/1.png", "a.b/1.png", "c/1.png", "b/.hidden.png", "b/1.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    names = [source.name for source in list_sources(str(tmp_path), "")]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert names == ["a/x/1.png", "a.b/1.png", "b/1.JPG", "b/2.png", "b.png", "c/1.png"]
    asked = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (asked.append(folder), scandir(folder))[1])
    assert [source.name for source in list_sources(str(tmp_path), "", limit=2)] == names[:2]
    assert f"{tmp_path}/c" not in asked


def test_a_list(tmp_path: Path, photos: Path) -> None:
    there = photos.rename(tmp_path / "in") / "photo 1.png"
    (tmp_path / "list.txt").write_text(
        f"\ufeff# mine\nin/photo 0.png\tCC BY 4.0\n\n{there}\nin/none.png\nin/photo 0.png\n", encoding="utf-8"
    )
    found = list_sources(str(tmp_path / "list.txt"), "mine")
    assert [(source.name, source.licence) for source in found] == [
        ("in/photo 0.png", "CC BY 4.0"),
        (str(there), "mine"),
        ("in/none.png", "mine"),
    ]
    assert found[1].read() == there.read_bytes()
    assert found[0].read() == (tmp_path / "in" / "photo 0.png").read_bytes()
    assert len(list_sources(str(tmp_path / "list.txt"), "mine", limit=1)) == 1


def test_a_list_in_a_bucket(s3_bucket: str, tmp_path: Path) -> None:
    put = boto3.client("s3").put_object
    put(Bucket=s3_bucket, Key="in/a.png", Body=b"1")
    put(Bucket=s3_bucket, Key="in/list.txt", Body=b"a.png\n")
    (found,) = list_sources(f"s3://{s3_bucket}/in/list.txt", "")
    assert (found.name, found.read()) == ("a.png", b"1")
    (tmp_path / "list.txt").write_text(f"s3://{s3_bucket}/in/a.png")
    (found,) = list_sources(str(tmp_path / "list.txt"), "")
    assert found.read() == b"1"


def test_lists_that_are_none(tmp_path: Path) -> None:
    for text, message in {
        b"http://x/y.png": "http://x/y.png has an unknown scheme",
        b"# nothing": "no image there",
        b"\xff\xfe": "not a text in UTF-8",
    }.items():
        (tmp_path / "list.txt").write_bytes(text)
        with pytest.raises(UserError, match=message):
            list_sources(str(tmp_path / "list.txt"), "")
    with pytest.raises(UserError, match=r"cannot read .*none.txt: No such file"):
        list_sources(str(tmp_path / "none.txt"), "")


def test_a_file_that_would_fill_the_memory_is_not_read(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1 << 20)
    boto3.client("s3").put_object(Bucket=s3_bucket, Key="a.png", Body=bytes((1 << 20) + 1))
    (tmp_path / "a.png").write_bytes(bytes((1 << 20) + 1))
    for location in (f"s3://{s3_bucket}/a.png", str(tmp_path / "a.png")):
        for span in (None, (0, (1 << 20) + 1)):
            with pytest.raises(OSError, match="larger than 1 MiB"):
                Source("a.png", location, "", span=span).read()
        assert len(Source("a.png", location, "", span=(1, 1 << 20)).read()) == 1 << 20
