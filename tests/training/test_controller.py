"""How many tasks train at once."""

from types import SimpleNamespace

import pytest

from kgt.errors import UserError
from pipelines import cluster
from training import controller
from training.config import RunConfig


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The cluster's resources, at first none."""
    resources = {"CPU": 0.0, "GPU": 0.0}
    monkeypatch.setattr(cluster, "resources_not_for", lambda role: resources)
    monkeypatch.setattr(cluster, "single_machine", lambda: False)
    return resources


def slots(**settings: object) -> int:
    return controller._slots(SimpleNamespace(config=RunConfig(**settings)))


@pytest.mark.parametrize(("cpus", "gpus", "tasks"), [(32, 16, 4), (32, 4, 1), (9, 16, 2), (0, 0, 1)])
def test_as_many_tasks_as_there_is_room_for(has: dict[str, float], cpus: float, gpus: float, tasks: int) -> None:
    """And one where there is none: a cluster may grow."""
    has |= {"CPU": cpus, "GPU": gpus}
    assert slots(workers=4, gpus_per_worker=1) == tasks


def test_as_many_as_asked_for_on_a_cluster_that_is_yet_to_grow(has: dict[str, float]) -> None:
    assert slots(workers=4, gpus_per_worker=1, at_once=3) == 3


def test_a_single_machine_does_not_grow(has: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "single_machine", lambda: True)
    has |= {"CPU": 2.0}
    with pytest.raises(UserError, match="workers=4 of cpus_per_worker=1 need 4 CPUs, and this machine has 2 CPUs"):
        slots(workers=4, at_once=2)
