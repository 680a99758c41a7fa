"""With how many workers a run starts and goes on, where machines are missing and come back (`min_workers`)."""

from typing import Any

from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from pipelines import cluster


class ElasticTrainer(TorchTrainer):
    """Ray's, but for its count of the workers that there is room for."""

    def _initialize_and_run_controller(self, **given: Any) -> Result:
        policy = _OnTrainingNodes(self.scaling_config)
        return super()._initialize_and_run_controller(**given | {"scaling_policy": policy})


class _OnTrainingNodes(ElasticScalingPolicy):
    """Ray's own counts what all nodes have, whatever labels workers ask for: it would wait for room that never comes,
    and end workers that train to make place for more."""

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        needs = self.scaling_config._resources_per_worker_not_none
        nodes = cluster.nodes_not_for("pipelines")
        room = sum(int(min(node.get(name, 0) // amount for name, amount in needs.items())) for node in nodes)
        return min(room, super()._count_possible_workers(reserved_resources))
