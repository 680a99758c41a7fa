"""Ray's start-up, and the one way in which pipelines use it: rows in, rows out, as they are finished."""

import logging
import os
import pickle
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kgt.errors import UserError
from pipelines.patience import patiently
from pipelines.ray_death import DEATHS, die_with_raylet, surviving

ROOT = Path(__file__).resolve().parents[1]
_EXCLUDES = [".git", ".venv", "docs", "*.egg-info", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"]

ROLE = "kgt-role"
"""The label by which a cluster's nodes say what they are for: `pipelines` or `training`. Without it, for anything."""

# From which level on Ray Data's loggers are heard: the progress is ours, and that its bars are off was our choice.
_CHATTER = {
    "ray.data": logging.WARNING,
    "ray.data._internal.progress": logging.ERROR,
    "ray.data._internal.execution": logging.CRITICAL,  # it logs the traces of errors that it raises as well
}


def connect(cores: int | None = None) -> None:
    """Be connected to Ray, quietly; nothing happens if this process already is.

    Inside a submitted job: to that job's cluster. With RAY_ADDRESS set: to that cluster, taking this checkout along.
    Otherwise: to a Ray of this process's own, on this machine's `cores` (default all), that ends with it.
    If Ray dies on this machine, this process ends: see `ray_death`.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a coming default
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    options: dict[str, Any] = {"logging_level": logging.WARNING}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        pass
    elif os.environ.get("RAY_ADDRESS"):
        options["runtime_env"] = {"working_dir": str(ROOT), "excludes": _EXCLUDES}
    else:
        options |= {"address": "local", "num_cpus": cores}
        # Ray's workers inherit this process's environment; where it was started from does not matter then.
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    try:
        with _hearing_sigterm():
            ray.init(**options)
    except ConnectionError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}") from error
    except Exception as error:
        if type(error) not in (Exception, RuntimeError, *DEATHS):
            raise
        # Ray's words, and kinds, for parts of it that die while they start or are too slow.
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f"no Ray starts on this machine ({reason}): try again") from error
    die_with_raylet()


@contextmanager
def _hearing_sigterm() -> Iterator[None]:
    """SIGTERM does afterwards what it did before: Ray's C++ takes it for itself, and would print a trace and abort."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def each_row(
    function: Callable[[dict[str, Any]], dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    *,
    cpus: float,
    alone: bool = False,
) -> Iterator[dict[str, Any]]:
    """`function` of every row by Ray Data, in the order in which the results come. `alone`: every row is its own task.

    A task that its machine lost is run again, however often (Ray Data's own rule), and a row whose store did not answer
    tried again, after a pause, a few times. A UserError in a task is raised as it was, and one if Ray itself dies.
    """
    connect()
    for name, level in _CHATTER.items():
        logging.getLogger(name).setLevel(level)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    # It keeps half of the cores for stages to come, and there are none: of two cores it would use one.
    context.op_resource_reservation_enabled = False
    blocks = len(rows) if alone else min(len(rows), max(16, len(rows) // 64))
    packed = [{"row": pickle.dumps(row)} for row in rows]
    dataset = ray.data.from_items(packed, override_num_blocks=max(1, blocks)).map(
        _Packed(function), num_cpus=cpus, label_selector=not_for("training")
    )
    results = iter(dataset.iter_rows())
    while True:
        with surviving():
            packed_result = next(results, None)
        if packed_result is None:
            return
        result = pickle.loads(packed_result["row"])
        if isinstance(result, UserError):
            raise result
        yield result


def not_for(role: str) -> dict[str, str]:
    """The selector of all nodes but those of a role. What has no role, as a single machine, is always chosen."""
    return {ROLE: f"!{role}"}


def nodes_not_for(role: str) -> list[dict[str, float]]:
    """What each of the nodes has that `not_for` selects, in Ray's units, by its names (`CPU`, `GPU`)."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Labels"].get(ROLE) != role]


def resources_not_for(role: str) -> Counter[str]:
    """The same of all of them together."""
    has: Counter[str] = Counter()
    for resources in nodes_not_for(role):
        has.update(resources)
    return has


class Shared:
    """A large value that tasks only read: it goes to a machine once, and arrays in it are not copied for a task."""

    def __init__(self, value: Any) -> None:
        connect()
        self._reference = ray.put(value)

    def get(self) -> Any:
        """The value."""
        return ray.get(self._reference)


def nodes() -> list[str]:
    """The ids of the nodes that are alive."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def single_machine() -> bool:
    """Whether one machine is all there is. A node alone that takes no work is the head of a cluster that grows."""
    return len(nodes()) == 1 and ray.cluster_resources().get("CPU", 0) > 0


def refuse_local_state(url: str) -> None:
    """See that every node of the cluster reaches `url`. On one machine everything is; SQLite never is on several.

    A `file://` folder may be a shared file system: each node is asked whether it sees a file that is put there now.
    Raises UserError with the way out.
    """
    if not url.startswith(("file://", "sqlite://")) or single_machine():
        return
    if url.startswith("sqlite://"):
        size = f"has {len(nodes())} nodes" if len(nodes()) > 1 else "grows"
        raise UserError(
            f"{url} is one machine's file and the cluster {size}: "
            "start `mlflow server` where all of them reach it and set MLFLOW_TRACKING_URI"
        )
    folder = Path(url.removeprefix("file://"))
    token = folder / f".seen-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise UserError(f"{url} cannot be written: {error.strerror} ({error.filename})") from error
    try:
        asked = [
            ray.remote(os.path.exists)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, False))
            .remote(str(token))
            for node in nodes()
        ]
        unseen = [_answer(reference) for reference in asked].count(False)
    finally:
        token.unlink(missing_ok=True)
    if unseen:
        raise UserError(
            f"{url} is not shared by the cluster: {unseen} of {len(asked)} nodes do not see it; "
            "use a folder of a file system that all nodes mount, or s3://bucket/folder"
        )


def _answer(reference: ray.ObjectRef) -> bool:
    """What a node says; one that was lost since it was listed needs to see nothing."""
    try:
        return ray.get(reference)
    except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError):
        return True


class _Packed:
    """`function` on rows that travel pickled: Arrow need not find them a common type.

    A UserError is an answer here. Raised, Ray Data would log its trace at length before it reached anyone; and Ray
    would run a raised Unavailable again at once, when the store is hardly back.
    """

    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.function = function

    def __call__(self, packed: dict[str, bytes]) -> dict[str, bytes]:
        try:
            return {"row": pickle.dumps(patiently(self.function, pickle.loads(packed["row"])))}
        except UserError as error:
            return {"row": pickle.dumps(error)}
