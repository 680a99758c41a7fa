"""The figures of every step, kept with the run."""

import math
from pathlib import Path

import pytest

from pipelines.storage import Store, open_store
from training import journal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}")


def records(first: int, last: int, loss: float = 0.5) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss} for step in range(first, last + 1)]


def test_what_was_written_comes_back_in_order_from_any_step(store: Store) -> None:
    assert list(journal.read(store, "sr", after=0)) == []
    for first, last in ((1, 6), (7, 12), (13, 13)):
        journal.write(store, "sr", records(first, last))
    journal.write(store, "sr", [])
    journal.write(store, "jpeg", records(1, 99))
    assert list(journal.read(store, "sr", after=0)) == records(1, 13)
    assert list(journal.read(store, "sr", after=8)) == records(9, 13)
    assert list(journal.read(store, "sr", after=13)) == []


def test_a_step_told_of_twice_is_read_once(store: Store) -> None:
    """A run that lost a checkpoint and goes on with other intervals writes some steps again."""
    journal.write(store, "sr", records(1, 6))
    journal.write(store, "sr", records(1, 9))
    assert [record["step"] for record in journal.read(store, "sr", after=0)] == list(range(1, 10))


def test_a_loss_that_was_not_finite_is_kept(store: Store) -> None:
    journal.write(store, "sr", records(1, 1, math.nan))
    (record,) = journal.read(store, "sr", after=0)
    assert math.isnan(record["loss"])
