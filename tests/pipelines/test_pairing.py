"""Folders of ready pairs, and folders of frames, as sources."""

from pathlib import Path

import pytest

from kgt.errors import UserError
from pipelines.frames import list_frames
from pipelines.pairing import list_pairs


def touch(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def test_pairs_are_sources_of_the_clean_image(tmp_path: Path) -> None:
    clean = touch(tmp_path / "sharp", "sharp_07.png", "sharp_12.png")
    degraded = touch(tmp_path / "blur", "blur_12.png", "blur_07.png")
    found = list_pairs(clean, degraded, "CC0")
    assert [(s.name, s.location, s.others, s.licence, s.group) for s in found] == [
        (f"blur_{n}.png", f"{clean}/sharp_{n}.png", (f"{degraded}/blur_{n}.png",), "CC0", None) for n in ("07", "12")
    ]


def test_pairs_of_one_clean_image_are_a_group(tmp_path: Path) -> None:
    clean = touch(tmp_path / "gt", "im_01.png", "im_02.png")
    degraded = touch(tmp_path / "input", "im_01_s80.png", "im_01_s95.png", "im_02_s80.png")
    assert [source.group for source in list_pairs(clean, degraded, "")] == ["im_01.png", "im_01.png", None]


def test_pairs_that_are_none(tmp_path: Path) -> None:
    clean = touch(tmp_path / "gt", "a.png", "b.png", "c.png")
    with pytest.raises(UserError, match=r"c\.png of .*gt has no degraded image"):
        list_pairs(clean, touch(tmp_path / "input", "a.png", "b.png"), "")


def test_windows_of_frames(tmp_path: Path) -> None:
    folder = touch(
        tmp_path / "clips", *(f"a/f{n}.png" for n in range(1, 12)), *(f"b/{n:03d}.png" for n in range(4)), "c.png"
    )
    windows, left_over = list_frames(folder, 5, "CC0")
    assert [(window.name, window.group) for window in windows] == [("a/f3.png", "a"), ("a/f8.png", "a")]
    assert windows[1].location == f"{folder}/a/f8.png"
    assert windows[1].others == tuple(f"{folder}/a/f{n}.png" for n in (6, 7, 9, 10))
    assert left_over == ["c.png", "a/f11.png", "b/000.png", "b/001.png", "b/002.png", "b/003.png"]
    assert [window.group for window in list_frames(f"{folder}/a", 11, "").sources] == ["."]


@pytest.mark.parametrize(("n", "message"), [(4, "an odd number"), (1, "an odd number"), (7, "no folder there has 7")])
def test_windows_that_are_none(n: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list_frames(touch(tmp_path, *(f"{n}.png" for n in range(6))), n, "")
