"""Divides the cluster among the tasks: side by side where there is room, else one after another.

One that fails stops no other. Asked to stop, those in training write a checkpoint first.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kgt.errors import UserError
from kgt.home import home, tracking_uri
from pipelines import cluster, ray_death
from pipelines.storage import check_writable, open_store
from training import jobs, journal, metric_log, origin, provenance, remote, tracking
from training.alarms import Alarms, tell
from training.board import Board, Lost, Picture
from training.config import RunConfig
from training.display import Display
from training.interruption import Interruption
from training.lock import Lock, held, of_run
from training.metric_log import MetricLog
from training.plan import Job

POLL_SECONDS = 0.3

END_SECONDS = 30.0
"""How long MLflow may take at the end, for all tasks together."""

ABORT_SECONDS = 2.0
"""The same at an end that is to be at once."""


@dataclass
class Outcome:
    """How one task ended: with its result (see `finish`), found finished before (`kept`) or not; or failed, and why.

    `stopped`: it was asked to stop, and the same command goes on from where it was.
    """

    task: str
    result: dict[str, Any] | None = None
    kept: bool = False
    stopped: bool = False
    reason: str = ""
    trace: str = ""


class _Stopped(Exception):
    """The task was asked to stop, and did."""


def run(configs: Sequence[RunConfig], interruption: Interruption) -> list[Outcome]:
    """Train, validate and register every task; how each one ended. A finished one is left as it is.

    Raises UserError before anything is started or written, also where another driver has the run, or had it since
    this began; where Ray itself dies; and where another driver has taken the run over, as this one stood still.
    """
    store = open_store(configs[0].out)
    lock = of_run(store)
    lock.look()  # first: what is read from here on is of a run that nobody else drives
    todo = jobs.prepare(configs)
    results = {job.task: _finished(job) for job in todo}
    fresh = [job for job in todo if results[job.task] is None]
    outcomes = {task: Outcome(task, result, kept=True) for task, result in results.items() if result}
    if fresh:
        lock.wait()
        tracking.open_tracking()
        cluster.connect()
        stores = [dataset.store for dataset in fresh[0].plan.datasets]
        for url in (fresh[0].config.out, *stores, tracking_uri()):
            cluster.refuse_local_state(url)
        slots = _slots(fresh[0])
        check_writable(store)
        with held(lock):
            jobs.commit(fresh)
            with ray_death.surviving(), interruption:
                outcomes |= {outcome.task: outcome for outcome in _Controller(fresh, slots, interruption, lock).run()}
    return [outcomes[job.task] for job in todo]


def _finished(job: Job) -> dict[str, Any] | None:
    """The result of a task whose version is still registered. Another MLflow database knows nothing of it."""
    result = jobs.read_result(job.config)
    if result is None:
        return None
    tracking.open_tracking()
    return result if tracking.version_of(job.task, result["mlflow_run"]) == result["model_version"] else None


class _Controller:
    """One run on a connected cluster. Every task has a thread here, which only waits for Ray."""

    def __init__(self, todo: Sequence[Job], slots: int, interruption: Interruption, lock: Lock) -> None:
        self._todo = todo
        self._store = open_store(todo[0].config.out)
        self._slots = slots
        self._interruption = interruption
        self._lock = lock
        self._stopping = threading.Event()  # asked to stop
        self._over = threading.Event()  # Ray is gone, or given up
        self._training: set[str] = set()  # the tasks that have workers, or wait for them
        self._stepping: set[str] = set()  # those whose workers are at their steps: they can stop at a checkpoint
        self._board = Board.options(scheduling_strategy=_here()).remote()
        self._parent, self._runs, self._lineage = _open_runs(todo)
        self._logs = {job.task: MetricLog(self._runs[job.task], job.config.log_every) for job in todo}
        self._alarms = {job.task: Alarms(job.task, job.config.alarm_minutes) for job in todo}
        self._display = Display({job.task: job.config.steps for job in todo})

    def run(self) -> list[Outcome]:
        """How every task ended."""
        self._tell_what_is_missing()
        with (
            ray_death.at_death(self._abort),
            self._display,
            ThreadPoolExecutor(len(self._todo)) as finishing,
            ThreadPoolExecutor(self._slots) as training,
        ):
            trained = {job.task: training.submit(self._train, job) for job in self._todo}
            futures = {job.task: finishing.submit(self._finish, job, trained[job.task]) for job in self._todo}
            try:
                while not all(future.done() for future in futures.values()):
                    time.sleep(POLL_SECONDS)
                    self._collect()
                    if self._lock.lost:
                        raise self._lock.lost
                    if self._interruption.signal and not self._stopping.is_set():
                        self._stop()
                self._collect()
            except BaseException as error:
                self._over.set()
                ray.shutdown()
                if error is not self._lock.lost:  # else MLflow's runs are those of whom the lock has
                    self._abort()
                raise
        outcomes = [_outcome(task, future) for task, future in futures.items()]
        ended = {self._runs[outcome.task]: _status([outcome]) for outcome in outcomes}
        metric_log.close([*self._logs.values()], ended | {self._parent: _status(outcomes)}, END_SECONDS)
        return outcomes

    def _abort(self) -> None:
        killed = dict.fromkeys((*self._runs.values(), self._parent), "KILLED")
        metric_log.close([*self._logs.values()], killed, ABORT_SECONDS)

    def _tell_what_is_missing(self) -> None:
        """Log the steps that MLflow never heard of before the run was interrupted."""
        for job in self._todo:
            log = self._logs[job.task]
            for record in journal.read(open_store(job.config.out), job.task, after=log.last):
                log.add(record)

    def _stop(self) -> None:
        """Let tasks in training stop at a checkpoint, which is due at once; those that are not have nothing to save."""
        ray.get(self._board.stop.remote())
        self._stopping.set()
        for task in sorted(self._stepping & self._training):
            self._display.say(task, "stopping at a checkpoint (once more, and it ends at once)")

    def _train(self, job: Job) -> None:
        """From the start, or where it was, to weights in the run's folder. Raises _Stopped."""
        if self._stopping.is_set() or self._over.is_set():
            raise _Stopped
        store, weights = open_store(job.config.out), f"{job.task}/weights.safetensors"
        if store.head(weights) is None:
            self._display.say(job.task, "starting")
            fit = _remote(remote.fit, num_cpus=0, scheduling_strategy=_here())
            self._alarms[job.task].begin(time.monotonic())
            self._training.add(job.task)
            try:
                self._result(fit.remote(job, self._board), unless=lambda: job.task not in self._stepping)
            finally:
                self._training.discard(job.task)
            if store.head(weights) is None:
                raise _Stopped

    def _finish(self, job: Job, trained: Future[None]) -> dict[str, Any]:
        """From weights to a registered version, while the next task may train already; the task's result.

        Raises _Stopped: what was half done is done again by the same command.
        """
        trained.result()
        self._display.say(job.task, "validating and registering")
        resources = {"num_cpus": job.config.cpus_per_worker, "num_gpus": job.config.gpus_per_worker}
        finish = _remote(remote.finish, max_retries=2, label_selector=cluster.not_for("pipelines"), **resources)
        return self._result(finish.remote(job, self._runs[job.task], self._lineage[job.task]), unless=lambda: True)

    def _result(self, reference: ray.ObjectRef, unless: Callable[[], bool]) -> Any:
        """What the Ray task returns. Once the run is stopping and while `unless()` holds, it is ended: _Stopped."""
        result = reference.future()
        while not wait([result], POLL_SECONDS).done:
            if self._over.is_set():  # a call of Ray's would connect to whatever other cluster it finds
                raise _Stopped
            if self._stopping.is_set() and unless():
                ray.cancel(reference, force=True)
                raise _Stopped
        return result.result()

    def _collect(self) -> None:
        now = time.monotonic()
        for task, news in ray.get(self._board.drain.remote()):
            if isinstance(news, str):
                self._display.say(task, news)
                self._alarms[task].alive(now)
            elif isinstance(news, Lost):
                self._stepping.discard(task)
                self._display.say(task, f"workers lost ({news.why}): starting again from the last checkpoint")
            elif isinstance(news, Picture):
                self._logs[task].add_picture(self._store, news.key)
            else:
                self._stepping.add(task)
                self._display.update(task, news)
                self._logs[task].add(news)
                tell(self._alarms[task].record(news, now))
        for task in sorted(self._training):
            tell(self._alarms[task].time(now))


def _here() -> NodeAffinitySchedulingStrategy:
    """On the driver's node: what its run cannot lose does not depend on other nodes."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _remote(function: Any, *, max_retries: int = 0, **options: Any) -> Any:
    """A Ray task with the driver's state, wherever it runs; and told its cluster, as a machine may have several."""
    environment = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "KGT_HOME": str(home())}
    environment |= {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI",) if name in os.environ}
    if cluster.single_machine():  # nobody preempts a single machine and leaves its Ray running
        environment["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    return ray.remote(function).options(runtime_env={"env_vars": environment}, max_retries=max_retries, **options)


def _open_runs(todo: Sequence[Job]) -> tuple[str, dict[str, str], dict[str, dict[str, str]]]:
    """(parent MLflow run; each task's run; what its model is tagged with). An interrupted run's are taken up again."""
    tracking.open_tracking()
    config = todo[0].config
    tags = {"git_commit": origin.git_commit(), "run": config.name}
    parent = tracking.start_run(config.name, resume=jobs.read_parent(config), tags=tags)
    jobs.write_parent(config, parent)
    runs, lineage = {}, {}
    for job in todo:
        record = jobs.read_record(job.config)
        name = f"{config.name}/{job.task}"
        lineage[job.task] = provenance.run_tags(job, record["history"]) | {"run": config.name, "parent_run": parent}
        runs[job.task] = tracking.start_run(name, resume=record.get("mlflow_run"), parent=parent)
        tracking.set_tags(runs[job.task], lineage[job.task])
        jobs.write_record(job.config, record | {"mlflow_run": runs[job.task]})
        tracking.log_params(runs[job.task], provenance.run_settings(job))
    return parent, runs, lineage


def _outcome(task: str, future: Future[dict[str, Any]]) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome(task, future.result())
    if isinstance(error, _Stopped):
        return Outcome(task, stopped=True)
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, remote.TaskFailed):
        return Outcome(task, reason=cause.reason, trace=cause.trace)
    if isinstance(cause, UserError):
        return Outcome(task, reason=str(cause))
    if isinstance(error, RayError):
        return Outcome(task, reason=remote.first_line(cause), trace=str(error))
    raise error


def _status(outcomes: Sequence[Outcome]) -> str:
    """In MLflow's words."""
    if any(outcome.stopped for outcome in outcomes):
        return "KILLED"
    return "FINISHED" if all(outcome.result for outcome in outcomes) else "FAILED"


def _slots(job: Job) -> int:
    """How many tasks train at once. Raises UserError where this machine is too small for a single one."""
    config, has = job.config, cluster.resources_not_for("pipelines")

    def room(workers: int) -> int:
        cores = has["CPU"] // (workers * config.cpus_per_worker)
        return int(min(cores, has["GPU"] // workers) if config.gpus_per_worker else cores)

    least = config.worker_counts()[0]
    if not room(least) and cluster.single_machine():
        needs = f"{least * config.cpus_per_worker} CPUs"
        needs += f" and {least} GPUs" if config.gpus_per_worker else ""
        raise UserError(
            f"workers={least} of cpus_per_worker={config.cpus_per_worker} need {needs}, and this machine has "
            f"{has.get('CPU', 0):.0f} CPUs and {has.get('GPU', 0):.0f} GPUs: ask for less of them"
        )
    return config.at_once or max(1, room(config.workers))  # a cluster may grow
