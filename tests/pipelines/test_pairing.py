"""Folders of ready pairs, and folders of frames, as sources."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgt.errors import UserError
from pipelines.frames import list_frames
from pipelines.pairing import list_pairs, match_pairs
from pipelines.sources import Source

WORD = st.text("abcx", min_size=1, max_size=3)
NUMBER = st.integers(0, 120).map(str)


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


def matched(degraded: Sequence[str], clean: Sequence[str]) -> dict[str, str] | None:
    """The clean image of each degraded one; None where they do not match."""
    sources = [[Source(f"{name}.png", name, "") for name in names] for names in (degraded, clean)]
    try:
        pairs = match_pairs(*sources, ("degraded", "clean"))
    except UserError:
        return None
    return {bad.location: good.location for bad, good in pairs}


@pytest.mark.parametrize(
    ("degraded", "clean"),
    [
        ("blur_07 blur_12", "sharp_07 sharp_12"),
        ("blur07 blur11", "sharp07 sharp11"),
        ("0_rain 1_rain", "0_clean 1_clean"),
        ("07blur 12blur", "07sharp 12sharp"),
        ("im_0001_s80_a04 im_0002_s80_a04", "im_0001 im_0002"),
        ("rain_s80_01 rain_s80_02", "gt_01 gt_02"),
        ("0001x2 0002x2", "0001 0002"),
        ("babyx4 birdx4", "baby bird"),
        ("img.1.noisy img.2.noisy", "img.1 img.2"),
        ("a/blur_1 b/blur_1", "a/sharp_1 b/sharp_1"),
        ("low/01 low/02", "high/01 high/02"),
        ("city-q10", "city"),
    ],
)
def test_names_that_match(degraded: str, clean: str) -> None:
    assert matched(degraded.split(), clean.split()) == dict(zip(degraded.split(), clean.split(), strict=True))


@pytest.mark.parametrize(
    ("degraded", "clean"),
    [
        ("bat bar", "cat car"),
        ("zzz", "a"),
        ("blur_07", "sharp_07"),
        ("cityscape", "city"),
        ("scene2_01 scene2_02", "scene1_01 scene1_02"),
        ("01_of_9 02_of_9", "01_of_8 02_of_8"),
        ("a/01 b/01", "a/01 c/01"),
        ("a/01 a/02", "a/01 b/02"),
    ],
)
def test_names_that_do_not_match(degraded: str, clean: str) -> None:
    assert matched(degraded.split(), clean.split()) is None


def test_an_image_belongs_to_the_longest_name_it_goes_on_from() -> None:
    names = {"im_1_s80": "im_1", "im_1_2": "im_1_2", "im_1_2_s80": "im_1_2", "im_1_2-s80.q": "im_1_2"}
    assert matched(list(names), ["im_1", "im_1_2"]) == names
    assert matched(["city_s80", "city_s95"], ["city"]) == {"city_s80": "city", "city_s95": "city"}


@given(
    identities=st.lists(WORD | NUMBER | st.tuples(WORD, NUMBER).map("_".join), min_size=2, max_size=8, unique=True),
    heads=st.tuples(*[st.just("") | WORD.map("{}_".format)] * 2),
    tails=st.tuples(*[st.just("") | WORD.map("-{}".format)] * 2),
    seed=st.integers(0, 99),
)
def test_words_that_all_share_do_not_count(
    identities: list[str], heads: tuple[str, str], tails: tuple[str, str], seed: int
) -> None:
    degraded, clean = (
        [head + identity + tail for identity in identities] for head, tail in zip(heads, tails, strict=True)
    )
    expected = dict(zip(degraded, clean, strict=True))
    assert matched(degraded, random.Random(seed).sample(clean, len(clean))) == expected


@given(words=st.lists(st.text("abcx", min_size=1, max_size=4), min_size=2, max_size=12, unique=True), data=st.data())
def test_parts_of_words_do_not_match(words: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(1, len(words) - 1))
    assert matched(words[:first], words[first:]) is None


NAME = st.lists(WORD | NUMBER, min_size=1, max_size=4).flatmap(
    lambda parts: st.lists(st.sampled_from(["", "_", "-", "."]), min_size=len(parts), max_size=len(parts)).map(
        lambda joints: "".join(part + joint for part, joint in zip(parts, joints, strict=True)).rstrip("_-.")
    )
)


@given(
    degraded=st.lists(NAME, min_size=1, max_size=5, unique=True),
    clean=st.lists(NAME, min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 99),
)
def test_partners_depend_on_names_alone(degraded: list[str], clean: list[str], seed: int) -> None:
    """Not on the order of a listing; and images of equal names are partners, whatever else is there."""
    shuffled = [random.Random(seed).sample(names, len(names)) for names in (degraded, clean)]
    pairs = matched(degraded, clean)
    assert matched(*shuffled) == pairs
    together = list(dict.fromkeys([*clean, *degraded]))
    assert matched(together, together) == {name: name for name in together}
    more = matched(together, clean)
    assert more is None or all(more[name] == name for name in clean)


def test_windows_of_frames(tmp_path: Path) -> None:
    folder = touch(
        tmp_path / "clips", *(f"a/f{n}.png" for n in range(1, 12)), *(f"b/{n:03d}.png" for n in range(4)), "c.png"
    )
    windows, left_over = list_frames(folder, 5, "CC0")
    assert [(window.name, window.group) for window in windows] == [("a/f3.png", "a/f1.png"), ("a/f8.png", "a/f1.png")]
    assert windows[1].location == f"{folder}/a/f8.png"
    assert windows[1].others == tuple(f"{folder}/a/f{n}.png" for n in (6, 7, 9, 10))
    assert left_over == ["c.png", "a/f11.png", "b/000.png", "b/001.png", "b/002.png", "b/003.png"]
    assert [window.group for window in list_frames(f"{folder}/a", 11, "").sources] == ["f1.png"]


def windows_of(names: Sequence[str], n: int, folder: Path) -> tuple[list[list[str]], list[str], list[str | None]]:
    """The windows' frames in order, the frames that fill none, the windows' groups."""
    windows, left_over = list_frames(touch(folder, *(f"{name}.png" for name in names)), n, "")
    whole = []
    for window in windows:
        others = [Path(other).relative_to(folder).with_suffix("").as_posix() for other in window.others]
        whole.append([*others[: n // 2], window.name.removesuffix(".png"), *others[n // 2 :]])
    return whole, [name.removesuffix(".png") for name in left_over], [window.group for window in windows]


@pytest.mark.parametrize(
    ("names", "windows", "left_over"),
    [
        ("cat_1 cat_2 dog_1 dog_2 dog_3", "dog_1 dog_2 dog_3", "cat_1 cat_2"),
        ("1 2 7 8 9", "7 8 9", "1 2"),
        ("f10 f20 f30 f50 f60", "f10 f20 f30", "f50 f60"),
        ("f1_clean f2_clean f3_clean", "f1_clean f2_clean f3_clean", ""),
        ("c1_08_x2 c1_09_x2 c1_10_x2 c2_08_x2", "c1_08_x2 c1_09_x2 c1_10_x2", "c2_08_x2"),
        ("c1-7 c1-8 c2-9 c3-7 c3-8 c3-9", "c3-7 c3-8 c3-9", "c1-7 c1-8 c2-9"),
        ("a/1 a/2 b/3 b/4 b/5", "b/3 b/4 b/5", "a/1 a/2"),
        ("1 01 2 3 4", "1 2 3", "01 4"),
    ],
)
def test_windows_do_not_span_scenes(names: str, windows: str, left_over: str, tmp_path: Path) -> None:
    found, rest, _ = windows_of(names.split(), 3, tmp_path)
    assert ([name for window in found for name in window], rest) == (windows.split(), left_over.split())


@settings(max_examples=30)
@given(
    scenes=st.lists(st.tuples(st.integers(2, 9), st.integers(1, 12)), min_size=1, max_size=5),
    step=st.integers(1, 3),
    one_text=st.booleans(),
    n=st.sampled_from([3, 5]),
)
def test_each_scene_is_a_group_of_its_own(
    scenes: list[tuple[int, int]], step: int, one_text: bool, n: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Scenes of (length, gap before it), numbered on in one folder, with texts of their own or the same."""
    number, expected = 0, []
    for place, (length, gap) in enumerate(scenes):
        number += step + gap
        expected.append([f"{'clip' if one_text else 'abcde'[place]}_{number + step * k:03d}" for k in range(length)])
        number += step * (length - 1)
    names = [name for scene in expected for name in scene]
    whole = [scene[first : first + n] for scene in expected for first in range(0, len(scene) - n + 1, n)]
    folder = tmp_path_factory.mktemp("video")
    if not whole:
        with pytest.raises(UserError, match=f"no folder there has {n} frames"):
            windows_of(names, n, folder)
        return
    found, left_over, groups = windows_of(names, n, folder)
    assert found == whole
    assert sorted([*left_over, *(name for window in found for name in window)]) == sorted(names)
    assert groups == [f"{scene[0]}.png" for scene in expected for _ in range(len(scene) // n)]


@pytest.mark.parametrize(("n", "message"), [(4, "an odd number"), (1, "an odd number"), (7, "no folder there has 7")])
def test_windows_that_are_none(n: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list_frames(touch(tmp_path, *(f"{n}.png" for n in range(6))), n, "")
