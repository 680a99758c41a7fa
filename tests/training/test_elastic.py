"""How many workers start where machines are missing, on a cluster whose nodes have roles."""

from types import SimpleNamespace

import pytest
import ray
from ray.train import Result
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipelines import cluster
from training import fit
from training.config import RunConfig


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> object:
    """What a run of one to four workers decides on, two cores each, on nodes of those cores and roles."""

    def decide(*nodes: tuple[int, str | None]) -> int:
        found = [
            {
                "NodeID": str(number),
                "Alive": True,
                "Resources": {"CPU": float(cores)},
                "Labels": {cluster.ROLE: role} if role else {},
            }
            for number, (cores, role) in enumerate(nodes)
        ]
        given = {}
        monkeypatch.setattr(ray, "nodes", lambda: found)
        monkeypatch.setattr(DataParallelTrainer, "_create_default_callbacks", lambda self: [])
        monkeypatch.setattr(
            DataParallelTrainer,
            "_initialize_and_run_controller",
            lambda self, **named: given.update(named) or Result(None, None, None, None),
        )
        config = RunConfig(out="file:///runs", workers=4, min_workers=1, cpus_per_worker=2)
        fit._trainer(SimpleNamespace(task="sr", config=config), None).fit()
        reserved = {node["NodeID"]: node["Resources"] for node in found}  # as Ray does, whatever the labels
        return given["scaling_policy"]._count_possible_workers(reserved)

    return decide


def test_nodes_for_pipelines_have_no_room_for_workers(decided: object) -> None:
    assert decided((16, "pipelines"), (5, "training")) == 2
    assert decided((16, "pipelines"), (3, "training"), (3, "training")) == 2
    assert decided((16, "pipelines")) == 0


def test_nodes_without_a_role_have_room(decided: object) -> None:
    assert decided((4, None), (2, "training")) == 3
    assert decided((64, None)) == 4
