"""When a task whose workers fail is given up."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from kgt.errors import UserError
from pipelines.patience import PAUSES
from pipelines.storage import Unavailable, open_store
from training import checkpoint, fit, remote
from training.config import RunConfig

AWAY = Unavailable("s3://runs does not answer")


@pytest.fixture
def job(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        task="sr", config=SimpleNamespace(max_failures=2, max_preemption_failures=-1, out=f"file://{tmp_path}")
    )


class Workers:
    """Fail in turn, each after the checkpoint of a step (0: none), and do not after the last failure.

    A TrainingFailedError is Ray's own; others are of one of the workers, and what one died of comes as Ray has it.
    """

    def __init__(self, job: SimpleNamespace, *failures: tuple[int, Exception]) -> None:
        self._job, self._failures = job, list(failures)
        self.starts = 0

    def fit(self) -> None:
        self.starts += 1
        if self._failures:
            step, error = self._failures.pop(0)
            if step:
                marker = f"sr/checkpoints/{step:08d}/{checkpoint.MARKER}"
                open_store(self._job.config.out).put(marker, b"{}")
            if isinstance(error, RayActorError | OutOfMemoryError):
                error = WorkerHealthCheckFailedError("the health check of a worker failed", error)
            raise error if isinstance(error, TrainingFailedError) else WorkerGroupError("workers failed", {0: error})


@pytest.fixture
def run(job: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> object:
    """Trains with workers that fail so; how often they were started, what was said, the pauses."""

    def trained(*failures: tuple[int, Exception]) -> tuple[int, list[str], list[float]]:
        workers, said, pauses = Workers(job, *failures), [], []
        monkeypatch.setattr(fit, "_trainer", lambda job, board: workers)
        monkeypatch.setattr(ray, "get", lambda said: said)
        monkeypatch.setattr(fit.time, "sleep", pauses.append)
        board = SimpleNamespace(say=SimpleNamespace(remote=lambda task, lost: said.append(lost.why)))
        fit.fit(job, board)
        return workers.starts, said, pauses

    return trained


def test_losses_without_progress_are_counted(run: object) -> None:
    assert run(*[(0, ActorDiedError())] * 2) == (3, ["a worker process died"] * 2, [])
    with pytest.raises(remote.TaskFailed) as failed:
        run(*[(0, ActorDiedError())] * 3)
    assert failed.value.reason == "a worker process died"


def test_a_new_checkpoint_begins_the_count_anew(run: object) -> None:
    """In a month many machines die, and none of them is a reason to give up."""
    died = ActorDiedError()
    starts, _, _ = run(*[(step, died) for step in range(10, 100, 10)], (0, died))
    assert starts == 11
    with pytest.raises(remote.TaskFailed):
        run((100, died), (0, died), (0, died))


def test_a_store_that_is_away_is_given_time(run: object) -> None:
    assert run(*[(0, AWAY)] * 2) == (3, [str(AWAY)] * 2, [*PAUSES[:2]])


PREEMPTED = ActorUnavailableError("the node was preempted", actor_id=None)
PREEMPTED._preempted = True  # Ray has no public way to say so


def test_preempted_machines_are_counted_apart_over_the_whole_run(run: object, job: SimpleNamespace) -> None:
    """What others say is that they lost the connection. Each loss is told, or a stop would wait for workers in vain."""
    warned = PreemptionError(PreemptionInfo(None, {"node": [0]}))
    assert run(*[(0, PREEMPTED)] * 9, (0, warned)) == (11, ["its machine was preempted"] * 10, [])
    job.config.max_preemption_failures = 2
    assert run((5, PREEMPTED), (0, ActorDiedError()), (6, warned))[0] == 4
    with pytest.raises(remote.TaskFailed, match="its machine was preempted"):
        run((7, PREEMPTED), (0, ActorDiedError()), (8, warned), (9, PREEMPTED))


def test_ray_starts_no_workers_again_by_itself(tmp_path: Path) -> None:
    config = RunConfig(out=f"file://{tmp_path}", max_preemption_failures=5)
    counted = fit._trainer(SimpleNamespace(task="sr", config=config), None).run_config.failure_config
    assert (counted.max_failures, counted.max_preemption_failures) == (0, 0)


def test_a_mistake_is_not_tried_again_and_told_in_one_line(run: object) -> None:
    with pytest.raises(remote.TaskFailed, match="no such shard") as failed:
        run((0, UserError("no such shard")))
    assert not failed.value.trace
    with pytest.raises(remote.TaskFailed, match="KeyError: 'x'") as failed:
        run(*[(0, KeyError("x"))] * 3)
    assert "workers failed" in failed.value.trace  # a fault, whose story is of use


def test_a_machine_without_memory_is_told_as_such(run: object) -> None:
    _, (said,), _ = run((0, OutOfMemoryError("the node is low on memory")))
    assert said.startswith("a worker process died: its machine ran out of memory")
