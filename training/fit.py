"""One task's training by Ray Train: workers are started, watched, and replaced where they are lost."""

import os
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipelines import cluster
from pipelines.storage import Unavailable
from training import remote
from training.board import Lost
from training.plan import Job

# A finished task is noticed 1.5 s earlier than by Ray's default.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
# A cloud's machine takes minutes to come. Ray would log a trace, and ask for it anew, every minute of them.
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "1800"


def fit(job: Job, board: Any) -> None:
    """Train to the last step. Raises TaskFailed.

    Ray's own `max_failures` would also repeat what can only fail again, so it counts preempted machines alone.
    """
    for attempt in range(job.config.max_failures + 1):
        try:
            _trainer(job, board).fit()
            return
        except TrainingFailedError as error:
            reason, final = _diagnose(error)
            if final or attempt == job.config.max_failures:
                raise remote.TaskFailed(reason, str(error)) from None
            ray.get(board.say.remote(job.task, Lost(reason)))


def _trainer(job: Job, board: Any) -> TorchTrainer:
    config = job.config
    resources = {"CPU": config.cpus_per_worker} | ({"GPU": 1} if config.gpus_per_worker else {})
    return TorchTrainer(
        remote.train,
        train_loop_config={"job": job, "board": board},
        torch_config=TorchConfig(backend="nccl" if config.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,
            use_gpu=bool(config.gpus_per_worker),
            resources_per_worker=resources,
            label_selector=cluster.not_for("pipelines"),
        ),
        run_config=RunConfig(
            name=job.task,
            storage_path=f"{config.out.removeprefix('file://')}/ray",
            # From the process's start: Ray leaves all GPUs visible, and looks for one before our loop begins.
            worker_runtime_env={} if config.gpus_per_worker else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=config.max_preemption_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _diagnose(error: TrainingFailedError) -> tuple[str, bool]:
    """(why, in one line; whether it is a failure that a new start would only meet again)."""
    failures: list[BaseException] = [error]
    if isinstance(error, WorkerGroupError):
        failures = [getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()]
    final = [
        failure
        for failure in failures
        if isinstance(failure, remote.FINAL) and not isinstance(failure, Unavailable)  # a store may come back
    ]
    if final:
        return remote.first_line(final[0]), True
    if any(isinstance(failure, RayActorError | WorkerHealthCheckFailedError) for failure in failures):
        return "a worker process died", False  # what the others say is that they lost the connection to it
    return remote.first_line(failures[0]), False
