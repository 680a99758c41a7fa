"""Batches of mixed datasets: every sample in its turn, whoever reads it, however often the run was interrupted."""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.degradations import settings_of
from tests.training.conftest import MakeShards
from tests.training.test_data import dataset_of, equal, plan_of, take
from training import data
from training.data import stream_samples, undone_batches
from training.order import given_out, stream_shards
from training.phases import Phase
from training.plan import DataPlan, Dataset, Shard
from training.validation import ValidationSet

STREAMS = (1, 2, 3, 4, 6)


@st.composite
def plans(draw: st.DrawFn) -> DataPlan:
    """One to three datasets, a shard of each at least for every stream, of very different sizes."""
    streams = draw(st.sampled_from(STREAMS))
    sizes = st.lists(st.integers(1, 9), min_size=streams, max_size=streams + 4)
    datasets = []
    for number in range(draw(st.integers(1, 3))):
        shards = tuple(Shard(f"{number}/{index}", size, 0, "") for index, size in enumerate(draw(sizes)))
        datasets.append(Dataset(f"store {number}", "v000001", "", shards, (), draw(st.integers(1, 5))))
    phases = (Phase(0, 16, 12), Phase(draw(st.integers(1, 9)), 24, 24))
    return DataPlan("denoise", tuple(datasets), streams, draw(st.integers(0, 3)), phases, draw(st.integers(1, 40)))


@contextmanager
def shards_without_files() -> Iterator[None]:
    """Their samples say where they stand."""

    def read_shard(store: str, shard: Shard) -> Iterator[tuple[str, str, int]]:
        return ((store, shard.key, index) for index in range(shard.samples))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "read_shard", read_shard)
        yield


def read(plan: DataPlan, steps: int, rank: int = 0, workers: int = 1, step: int = 0) -> list[list[tuple]]:
    """Of every batch: each pair's dataset, place, number in the run and patch."""
    with shards_without_files():
        found = itertools.islice(undone_batches(plan, rank=rank, workers=workers, step=step), steps)
        return [[patch.args[1:] for patch in batch] for batch in found]


@given(plans(), st.integers(0, 2))
def test_a_dataset_gives_every_sample_once_an_epoch(plan: DataPlan, index: int) -> None:
    """Its epochs are its own: those of a smaller or heavier one are shorter."""
    index %= len(plan.datasets)
    dataset = plan.datasets[index]
    everything = {(dataset.store, shard.key, number) for shard in dataset.shards for number in range(shard.samples)}
    epochs: list[list[tuple]] = [[], []]
    with shards_without_files():
        for stream in range(plan.streams):
            samples = (sample for owner, sample in stream_samples(plan, stream, 0) if owner is dataset)
            for epoch, places in enumerate(epochs):
                seed = f"{plan.seed}/{index}" if index else plan.seed
                shards = stream_shards(len(dataset.shards), plan.streams, stream, seed, epoch)
                places += itertools.islice(samples, sum(dataset.shards[shard].samples for shard in shards))
    for places in epochs:
        assert len(places) == len(everything)
        assert set(places) == everything


@given(plans(), st.integers(1, 4))
def test_every_stream_gives_the_datasets_by_their_weights(plan: DataPlan, periods: int) -> None:
    length = periods * sum(plan.weights)
    with shards_without_files():
        for stream in range(plan.streams):
            owners = [owner.store for owner, _ in itertools.islice(stream_samples(plan, stream, 0), length)]
            assert Counter(owners) == {d.store: periods * d.weight for d in plan.datasets}


@given(plans(), st.integers(0, 5), st.integers(0, 40))
def test_a_stream_goes_on_anywhere(plan: DataPlan, stream: int, position: int) -> None:
    stream %= plan.streams
    with shards_without_files():
        whole = list(itertools.islice(stream_samples(plan, stream, 0), position + 20))
        resumed = list(itertools.islice(stream_samples(plan, stream, position), 20))
    assert resumed == whole[position:]
    owners = [owner for owner, _ in whole[:position]]
    assert given_out(plan.weights, stream, position) == [owners.count(dataset) for dataset in plan.datasets]


@given(plans(), st.integers(0, 8), st.data())
def test_any_number_of_workers_takes_as_many_steps_and_the_same_batches(
    plan: DataPlan, step: int, choose: st.DataObject
) -> None:
    """Whatever the shards' sizes: no worker ever runs out of its own, and all have the same share of every batch."""
    workers = choose.draw(st.sampled_from([count for count in STREAMS if plan.streams % count == 0]))
    alone = read(plan, 12)
    shares = [read(plan, 12 - step, rank, workers, step) for rank in range(workers)]
    for number, batch in enumerate(alone[step:]):
        assert {len(share[number]) for share in shares} == {len(batch) // workers}
        assert [share[number][place] for place in range(len(batch) // workers) for share in shares] == batch


@pytest.fixture
def mixed(denoise_store: str, make_shards: MakeShards) -> DataPlan:
    """Three of σ 25 to one of σ 50, whose shards are more and smaller."""
    strong = make_shards("denoise", shards=7, samples=3, sigma=50)
    return plan_of(dataset_of(denoise_store, weight=3), dataset_of(strong, weight=1), batch_size=8)


def test_real_shards_are_mixed_in_every_batch_and_resumed_anywhere(mixed: DataPlan) -> None:
    """64 samples of the first make more than two epochs, 24 of the second more than one."""
    whole = take(mixed, 12)
    for batch in whole:
        noise = (batch.degraded - batch.clean).std((1, 2, 3)) * 255
        assert sorted(noise.tolist()) == pytest.approx([25] * 6 + [50] * 2, rel=0.15)
    for step in (1, 4, 11):
        assert all(map(equal, take(mixed, 12 - step, step=step), whole[step:]))
        for rank in range(2):
            shares = take(mixed, 12 - step, rank=rank, workers=2, step=step)
            for batch, expected in zip(shares, whole[step:], strict=True):
                assert torch.equal(batch.degraded, expected.degraded[rank::2])


def test_each_dataset_is_drawn_anew_by_its_own_settings(denoise_store: str, make_shards: MakeShards) -> None:
    other = make_shards("denoise", shards=5, sigma=50)
    redrawn = [
        dataset_of(store, redraw=settings_of("denoise", {"sigma": sigma}))
        for store, sigma in ((denoise_store, 5), (other, 70))
    ]
    (batch,) = take(plan_of(*redrawn, batch_size=8), 1)
    noise = (batch.degraded - batch.clean).std((1, 2, 3)) * 255
    assert sorted(noise.tolist()) == pytest.approx([5] * 4 + [70] * 4, rel=0.15)


def test_validation_looks_at_all_datasets(denoise_store: str, make_shards: MakeShards) -> None:
    """At as many pairs of each, were there a hundred shards of one and a single one of the other."""
    plan = plan_of(denoise_store, make_shards("denoise", shards=1, samples=2, sigma=50))
    for most, noise in ((4, [25, 25, 50, 50]), (3, [25, 25, 50]), (20, [25] * 6 + [50] * 2)):
        pairs = ValidationSet(plan, most)._pairs
        found = [(pair.degraded - pair.clean / 255).std() * 255 for pair in pairs]
        assert found == pytest.approx(noise, rel=0.15)
