import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kgt.windows import Windows


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(2, 16),
    shifted=st.booleans(),
    batch=st.integers(1, 2),
)
@settings(max_examples=60)
def test_reverse_undoes_partition(height: int, width: int, window: int, shifted: bool, batch: int) -> None:
    windows = Windows(height, width, window, shifted)
    x = torch.randn(batch, 3, height, width)
    nodes = windows.partition(x)
    assert nodes.shape == (batch * windows.counts[0] * windows.counts[1], windows.nodes, 3)
    assert torch.equal(windows.reverse(nodes), x)


@given(height=st.integers(1, 40), width=st.integers(1, 40), window=st.integers(2, 16), shifted=st.booleans())
@settings(max_examples=60)
def test_regions_are_pieces_of_the_map_that_lie_side_by_side(
    height: int, width: int, window: int, shifted: bool
) -> None:
    windows = Windows(height, width, window, shifted)
    place = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
    places = windows.partition(place)[..., 0].long() - 1  # −1: padding
    regions = windows.regions()
    if regions is None:
        regions = torch.zeros_like(places)
    assert torch.equal(regions < 0, places < 0)
    rows, columns = windows.sides
    node = torch.arange(rows * columns)
    for window_places, window_regions in zip(places, regions, strict=True):
        for region in window_regions[window_regions >= 0].unique():
            member = window_regions == region
            # In one region, offsets inside the window are offsets in the map.
            for in_map, in_window in (
                (window_places[member] // width, node[member] // columns),
                (window_places[member] % width, node[member] % columns),
            ):
                assert torch.equal(in_map - in_map[0], in_window - in_window[0])


def test_half_shifted_windows_straddle_the_plain_ones() -> None:
    windows = Windows(8, 8, 4, shifted=True)
    place = torch.arange(64.0).reshape(1, 1, 8, 8)
    nodes = windows.partition(place)[..., 0]
    assert nodes[0].tolist() == [8 * row + column for row in range(2, 6) for column in range(2, 6)]
    regions = windows.regions()
    assert (regions[0] == 0).all()
    assert sorted(regions[3].unique(return_counts=True)[1].tolist()) == [4, 4, 4, 4]  # the corner: N/4 nodes each


@pytest.mark.parametrize("shifted", [False, True])
def test_a_map_no_larger_than_the_window_is_one_plain_window(shifted: bool) -> None:
    windows = Windows(5, 7, 8, shifted)
    assert (windows.sides, windows.counts, windows.shift, windows.regions()) == ((5, 7), (1, 1), (0, 0), None)
