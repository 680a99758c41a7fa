"""Where crops may lie, against a list of all corners and a count of every block."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crops import BLOCK, Places


def naive(places: Places) -> list[tuple[int, int]]:
    def corners(length: int) -> list[int]:
        last = (length - places.side) // places.align * places.align
        if places.step is None:
            return list(range(0, last + 1, places.align))
        step = max(places.align, places.step // places.align * places.align)
        return sorted({*range(0, last + 1, step), last})

    shape = math.ceil(places.height / BLOCK), math.ceil(places.width / BLOCK)
    bits = np.unpackbits(np.frombuffer(places.detail, np.uint8), count=math.prod(shape)) if places.detail else 1
    flat = np.broadcast_to(1 - np.asarray(bits, float), (math.prod(shape),)).reshape(shape)
    found = []
    for top in corners(places.height):
        for left in corners(places.width):
            touched = flat[
                top // BLOCK : (top + places.side - 1) // BLOCK + 1,
                left // BLOCK : (left + places.side - 1) // BLOCK + 1,
            ]
            if touched.mean() <= places.max_flatness:
                found.append((top, left))
    return found


@st.composite
def any_places(draw: st.DrawFn) -> Places:
    side = draw(st.integers(32, 70))
    height, width = draw(st.integers(side, 150)), draw(st.integers(side, 150))
    blocks = math.ceil(height / BLOCK) * math.ceil(width / BLOCK)
    detail = np.packbits(draw(st.lists(st.booleans(), min_size=blocks, max_size=blocks))).tobytes()
    return Places(
        height,
        width,
        side,
        align=draw(st.sampled_from([1, 2, 12, 16])),
        step=draw(st.sampled_from([None, 1, 20, 64])),
        detail=draw(st.sampled_from([b"", detail])),
        max_flatness=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
    )


@given(any_places())
def test_they_are_all_that_are_not_flat(places: Places) -> None:
    assert len(places) == len(list(places))
    assert sorted(places) == naive(places)


@given(any_places(), st.integers(0, 2**32))
def test_drawn_ones_are_different_and_of_them(places: Places, seed: int) -> None:
    count = min(len(places), 9)
    drawn = places.draw(np.random.default_rng(seed), count) if count else []
    assert len(set(drawn)) == count
    assert set(drawn) <= set(naive(places))


def test_each_is_as_likely() -> None:
    detail = np.packbits([1, 0, 0, 0, 0, 0]).tobytes()
    places = Places(64, 96, 32, align=8, detail=detail, max_flatness=0.5)
    everywhere = naive(places)
    counts = dict.fromkeys(everywhere, 0)
    rng = np.random.default_rng(0)
    for _ in range(200 * len(everywhere)):
        counts[places.draw(rng, 1)[0]] += 1
    assert min(counts.values()) > 130
    assert max(counts.values()) < 270


def test_a_grid_covers_the_image() -> None:
    seen = np.zeros((100, 130), bool)
    for top, left in Places(100, 130, 48, align=1, step=40):
        seen[top : top + 48, left : left + 48] = True
    assert seen.all()


def test_an_image_smaller_than_the_crop_gives_none() -> None:
    places = Places(40, 200, 48, align=1)
    assert len(places) == 0
    with pytest.raises(ValueError, match="sample"):
        places.draw(np.random.default_rng(0), 1)


def test_a_large_photograph_takes_no_list_of_its_places() -> None:
    detail = np.packbits(np.arange(313 * 313) % 7 > 0).tobytes()
    places = Places(10_000, 10_000, 256, align=1, detail=detail, max_flatness=0.5)
    assert len(places) == 9745**2
    assert places._ends.size < 700**2
