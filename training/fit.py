"""One task's training by Ray Train: workers are started, watched, and replaced where they are lost."""

import os
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import PreemptionError, TrainingFailedError, WorkerGroupError

from pipelines import cluster
from pipelines.patience import PAUSES
from pipelines.storage import Unavailable, open_store
from training import checkpoint, remote
from training.board import Lost
from training.elastic import ElasticTrainer
from training.plan import Job

# A finished task is noticed 1.5 s earlier than by Ray's default.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
# A cloud's machine takes minutes to come. Ray would log a trace, and ask for it anew, every minute of them.
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "1800"


def fit(job: Job, board: Any) -> None:
    """Train to the last step. Raises TaskFailed.

    Ray is not to start workers again by itself: it would also repeat what can only fail again, and tell nobody. Losses
    are counted since the last new checkpoint, as what went on between two of them is no reason to give up a long run;
    preempted machines apart from them, over the whole of it.
    """
    config, losses, preempted, saved = job.config, 0, 0, None
    while True:
        try:
            _trainer(job, board).fit()
            return
        except TrainingFailedError as error:
            found = _Failure.of(error)
            if found.final:
                raise remote.TaskFailed(found.reason) from None
            if found.preempted:
                preempted += 1
            else:
                saved, before = _saved(job, saved), saved
                losses = losses + 1 if saved == before else 1
            if losses > config.max_failures or 0 <= config.max_preemption_failures < preempted:
                raise remote.TaskFailed(found.reason, str(error)) from None
            ray.get(board.say.remote(job.task, Lost(found.reason)))
            if found.store_away:
                time.sleep(PAUSES[min(losses, len(PAUSES)) - 1])


def _saved(job: Job, before: int | None) -> int | None:
    """The step of the newest checkpoint; `before`, where the store does not say."""
    try:
        return max(checkpoint.committed(open_store(job.config.out), job.task), default=before)
    except Unavailable:
        return before


def _trainer(job: Job, board: Any) -> TorchTrainer:
    config = job.config
    resources = {"CPU": config.cpus_per_worker} | ({"GPU": 1} if config.gpus_per_worker else {})
    trainer = ElasticTrainer if config.min_workers else TorchTrainer
    return trainer(
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
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


@dataclass(frozen=True)
class _Failure:
    """Why workers failed, in one line.

    final: a new start would only meet it again. store_away: a store is away. preempted: their machine was taken away.
    """

    reason: str
    final: bool = False
    store_away: bool = False
    preempted: bool = False

    @classmethod
    def of(cls, error: TrainingFailedError) -> "_Failure":
        failures: list[BaseException] = [error]
        if isinstance(error, WorkerGroupError):
            failures = [getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()]
        dead = any(isinstance(failure, WorkerHealthCheckFailedError | RayActorError) for failure in failures)
        failures = [getattr(failure, "health_check_failure", failure) for failure in failures]  # what it died of
        away = [failure for failure in failures if isinstance(failure, Unavailable)]
        final = [failure for failure in failures if isinstance(failure, remote.FINAL) and failure not in away]
        if final:
            return cls(remote.first_line(final[0]), final=True)
        lost = [failure for failure in failures if isinstance(failure, RayActorError)]
        if isinstance(error, PreemptionError) or any(failure.preempted for failure in lost):
            return cls("its machine was preempted", preempted=True)
        if away:
            return cls(remote.first_line(away[0]), store_away=True)
        if any(isinstance(failure, OutOfMemoryError) for failure in failures):
            return cls("a worker process died: its machine ran out of memory (a smaller batch_size= takes less)")
        if dead:
            return cls("a worker process died")  # what the others say is that they lost the connection to it
        return cls(remote.first_line(failures[0]))
