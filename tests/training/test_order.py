"""The sample order: complete, exact after any interruption, the same for any number of workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.errors import UserError
from training.order import (
    choose_streams,
    consumed,
    dataset_of,
    epoch_order,
    given_out,
    locate,
    pattern,
    share,
    stream_shards,
)

sizes_and_streams = st.lists(st.integers(1, 7), min_size=1, max_size=12).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(1, len(sizes)))
)


@given(sizes_and_streams, st.integers(0, 3), st.integers(0, 3), st.integers(1, 9))
def test_an_epoch_gives_every_sample_once(case: tuple[list[int], int], seed: int, epoch: int, buffer: int) -> None:
    sizes, streams = case
    places = [place for v in range(streams) for place in epoch_order(sizes, streams, v, seed, epoch, buffer)[1]]
    assert sorted(places) == [(shard, index) for shard, size in enumerate(sizes) for index in range(size)]


@given(sizes_and_streams, st.integers(0, 3), st.integers(1, 9))
def test_no_sample_waits_for_more_than_the_buffer(case: tuple[list[int], int], seed: int, buffer: int) -> None:
    sizes, streams = case
    shards, order = epoch_order(sizes, streams, 0, seed, 0, buffer)
    read = [(shard, index) for shard in shards for index in range(sizes[shard])]
    for before, place in enumerate(order):
        assert read.index(place) < before + buffer


def test_shuffling_shuffles_and_every_epoch_differs() -> None:
    orders = [epoch_order([50] * 4, 2, 0, 0, epoch, 32)[1] for epoch in range(3)]
    assert orders[0] != sorted(orders[0])
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == epoch_order([50] * 4, 2, 0, 0, 0, 32)[1]
    assert orders[0] != epoch_order([50] * 4, 2, 0, 1, 0, 32)[1]


def test_shards_change_streams_from_epoch_to_epoch() -> None:
    assert len({tuple(sorted(stream_shards(12, 4, 0, 0, epoch))) for epoch in range(8)}) > 1


@given(sizes_and_streams, st.integers(0, 3), st.integers(0, 200))
def test_locate_counts_whole_epochs(case: tuple[list[int], int], seed: int, position: int) -> None:
    sizes, streams = case
    epoch, offset = locate(sizes, streams, 0, seed, position)
    before = sum(len(epoch_order(sizes, streams, 0, seed, e, 1)[1]) for e in range(epoch))
    assert before + offset == position
    assert offset < len(epoch_order(sizes, streams, 0, seed, epoch, 1)[1])


def test_the_order_of_one_dataset_is_what_it_always_was() -> None:
    """Runs that have begun go on."""
    shards, order = epoch_order([2, 3, 2, 1], 2, 1, 7, 2, 3)
    assert shards == [2, 1]
    assert order == [(2, 0), (1, 1), (2, 1), (1, 0), (1, 2)]
    assert {dataset_of((5,), stream, position) for stream in range(4) for position in range(9)} == {0}


weights_lists = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)


@given(weights_lists, st.integers(0, 47), st.integers(0, 60))
def test_any_period_has_each_dataset_as_often_as_it_weighs(
    weights: tuple[int, ...], stream: int, position: int
) -> None:
    total = sum(weights)
    period = [dataset_of(weights, stream, position + turn) for turn in range(total)]
    assert [period.count(dataset) for dataset in range(len(weights))] == list(weights)


@given(weights_lists, st.integers(0, 47), st.integers(0, 60))
def test_how_many_of_each_dataset_were_given_out_is_known_without_counting(
    weights: tuple[int, ...], stream: int, position: int
) -> None:
    before = [dataset_of(weights, stream, earlier) for earlier in range(position)]
    assert given_out(weights, stream, position) == [before.count(dataset) for dataset in range(len(weights))]


@given(weights_lists)
def test_turns_are_spread_evenly(weights: tuple[int, ...]) -> None:
    """None ever comes a whole turn too early, and so none is late by more than what all others may be early."""
    turns, total = pattern(weights), sum(weights)
    for end in range(total):
        for dataset, weight in enumerate(weights):
            early = turns[:end].count(dataset) - end * weight / total
            assert -(len(weights) - 1) < early < 1 or len(weights) == 1


def test_a_batch_of_a_few_streams_is_mixed() -> None:
    assert [dataset_of((3, 1), stream, 0) for stream in range(8)].count(1) == 2
    assert pattern((3, 1)) == (0, 0, 1, 0)


@given(st.integers(0, 500), st.integers(1, 48))
def test_consumed_counts_what_each_stream_gave(samples: int, streams: int) -> None:
    assert consumed(samples, streams) == [sum(g % streams == v for g in range(samples)) for v in range(streams)]


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6])
def test_workers_share_a_batch_evenly_and_by_streams(workers: int) -> None:
    batch, streams = 12, 12
    shares = [share(24, 24 + batch, rank, workers) for rank in range(workers)]
    assert sorted(g for mine in shares for g in mine) == list(range(24, 36))
    assert {len(mine) for mine in shares} == {batch // workers}
    for rank, mine in enumerate(shares):
        assert all(g % streams % workers == rank for g in mine)


@pytest.mark.parametrize(
    ("shards", "workers", "streams"), [(24, 2, 24), (5, 2, 4), (2, 2, 2), (100, 4, 48), (9, 3, 6), (1, 1, 1)]
)
def test_streams_are_chosen_for_shards_and_workers(shards: int, workers: int, streams: int) -> None:
    assert choose_streams(shards, workers) == streams


@given(st.integers(1, 120), st.integers(1, 48))
def test_the_number_of_workers_changes_no_order(shards: int, workers: int) -> None:
    alone = choose_streams(shards, 1)
    if alone % workers == 0:
        assert choose_streams(shards, workers) == alone
    else:
        with pytest.raises(UserError, match=f"workers={alone},|use workers of 1, .*{alone}"):
            choose_streams(shards, workers)


@pytest.mark.parametrize(
    ("shards", "workers", "wanted", "message"),
    [
        (1, 2, 0, "the dataset has 1 shard, which cannot feed 2 workers.*workers=1"),
        (7, 5, 0, "workers=5 cannot share 6 streams.*1, 2, 3, 6, or streams=5"),
        (8, 3, 8, "workers=3 cannot share 8 streams.*1, 2, 4, 8"),
        (4, 2, 8, "streams=8: the dataset has 4 shards, and"),
    ],
)
def test_what_does_not_fit_names_what_does(shards: int, workers: int, wanted: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_streams(shards, workers, wanted)
