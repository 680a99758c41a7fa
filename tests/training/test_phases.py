"""Progressive patches: what a step takes, and what all before it took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.errors import UserError
from training.phases import Phase, phase_at, phases_of, samples_before


@given(
    st.lists(st.tuples(st.integers(8, 99), st.integers(1, 99)), min_size=1, max_size=6),
    st.integers(1, 60),
    st.data(),
)
def test_the_samples_before_a_step_are_the_batches_of_all_steps_before(
    sizes: list[tuple[int, int]], steps: int, data: st.DataObject
) -> None:
    fractions = st.floats(0.001, 0.999)
    count = len(sizes) - 1
    milestones = sorted(data.draw(st.lists(fractions, min_size=count, max_size=count, unique=True)))
    patches, batch_sizes = ([values[axis] for values in sizes] for axis in (0, 1))
    phases = phases_of(patches, batch_sizes, milestones, steps)
    assert phases[0].start == 0
    taken = 0
    for step in range(steps):
        assert samples_before(phases, step) == taken
        due = [index for index, milestone in enumerate(milestones, 1) if round(steps * milestone) <= step]
        assert (phase_at(phases, step).patch, phase_at(phases, step).batch_size) == sizes[max(due, default=0)]
        taken += phase_at(phases, step).batch_size
    assert samples_before(phases, steps) == taken


def test_one_number_is_of_every_phase() -> None:
    assert phases_of(64, 8, [0.5], 10) == (Phase(0, 64, 8),)
    assert phases_of([64, 96], 8, [0.5], 10) == (Phase(0, 64, 8), Phase(5, 96, 8))
    assert phases_of(64, [8, 4], [0.5], 10) == (Phase(0, 64, 8), Phase(5, 64, 4))


def test_phases_without_a_step_are_left_out() -> None:
    assert phases_of([16, 24, 32], 4, [0.1, 0.2], 3) == (Phase(0, 24, 4), Phase(1, 32, 4))
    assert phases_of([16, 24], 4, [0.1], 1) == (Phase(0, 24, 4),)


def test_lists_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match=r"batch_size=\[8,4,2\]: 1 patch_milestones .* 2 phases"):
        phases_of([64, 96], [8, 4, 2], [0.5], 10)
