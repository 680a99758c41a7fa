"""Everything MLflow: runs, metrics, the registry. How it is spoken to is `mlflow_client.py`'s.

One experiment, `kgt`. Without MLFLOW_TRACKING_URI everything is embedded: SQLite and artifacts under KGT_HOME. The
artifacts lie there with any other store, too, that is not a server.
"""

import fcntl
import logging
import math
import re
import shlex
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.mlflow_client import PermissionDenied, TrackingError, in_one_line, our_uri, store_client

# isort: split
# What comes above sets MLflow up, which has to be before its import.
import mlflow
import numpy as np
from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.types import Schema, TensorSpec

from kgt.errors import UserError
from kgt.home import home, tracking_uri
from kgt.registry import EXPERIMENT, WEIGHTS_ARTIFACT, model_name
from training import origin
from training.background import Background

if TYPE_CHECKING:
    from training.evaluation import Row

ROOT = Path(__file__).resolve().parents[1]

_TAG_CHARACTERS = 4000
_BATCH = 900
"""Metrics of one request; MLflow takes a thousand."""

Timed = tuple[int, Mapping[str, float]]
"""A record with its `step` and metrics by name, and when it was made, in milliseconds since 1970."""

logger = logging.getLogger("training")


def open_tracking() -> str:
    """The experiment's id; database and experiment are created where they are missing.

    Called once in the driver before anything else runs: the rest finds both there.
    Raises UserError where the server cannot be reached, or the experiment was deleted.
    """
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _see_that_it_answers(uri)
    try:
        with _first_come(uri):
            experiment = store_client().get_experiment_by_name(EXPERIMENT) or _made_experiment(uri)
    except MlflowException as error:
        raise UserError(f"MLflow at {uri} does not answer as it should: {str(error).splitlines()[0]}") from error
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"the experiment '{EXPERIMENT}' of MLflow at {uri} was deleted: restore it with: "
            f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore -x {experiment.experiment_id}"
        )
    return experiment.experiment_id


@contextmanager
def _first_come(uri: str) -> Iterator[None]:
    """One process at a time opens a SQLite database: of two that create a new one, each breaks the other's."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{path}.lock").touch()
    except OSError as error:
        raise UserError(
            f"cannot write MLflow's database {path} ({error.strerror}): "
            "let KGT_HOME, or MLFLOW_TRACKING_URI, name another place"
        ) from error
    with open(f"{path}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made_experiment(uri: str) -> Experiment:
    # A server places artifacts itself; by default an embedded store would put them under the working directory.
    served = uri.startswith(("http://", "https://", "databricks"))
    location = None if served else (home() / "artifacts").as_uri()
    client = store_client()
    try:
        client.create_experiment(EXPERIMENT, artifact_location=location)
    except MlflowException as error:  # another command may have been first
        if error.error_code != ErrorCode.Name(ErrorCode.RESOURCE_ALREADY_EXISTS):
            raise
    return client.get_experiment_by_name(EXPERIMENT)


def _see_that_it_answers(uri: str) -> None:
    """Ask once: MLflow's client retries for minutes, which is right within a long run and wrong before it."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return  # a refusal is an answer; the client says what it thinks of it
    except OSError as error:
        raise UserError(
            f"MLflow at {uri} does not answer ({getattr(error, 'reason', error)}): "
            "start `mlflow server` there, or unset MLFLOW_TRACKING_URI"
        ) from error


def start_run(
    name: str, *, resume: str | None = None, parent: str | None = None, tags: Mapping[str, str] | None = None
) -> str:
    """A new run's id, or `resume` itself, set to running again, where that run is still known.

    Raises UserError where the account may not log.
    """
    client = store_client()
    if resume is not None and _exists(resume):
        client.update_run(resume, status="RUNNING")
        return resume
    described = {"mlflow.runName": name, **({"mlflow.parentRunId": parent} if parent else {}), **(tags or {})}
    return client.create_run(open_tracking(), tags=described).info.run_id


def end_run(run: str, status: str = "FINISHED") -> None:
    """status: FINISHED, FAILED or KILLED. Where MLflow does not take that, the run is left as it is, and said so."""
    try:
        store_client().set_terminated(run, status=status)
    except (TrackingError, MlflowException) as error:  # the latter of a run that was deleted
        logger.warning("run %s is %s, and MLflow does not know it: %s", run, status, str(error).splitlines()[0])


def end_runs(statuses: Mapping[str, str], seconds: float) -> None:
    """`end_run` of every run, within that time for all of them."""
    left = dict(statuses)

    def end() -> None:
        for run, status in statuses.items():
            end_run(run, status)
            del left[run]

    ending = Background(end)
    ending.start()
    if not ending.done(seconds):
        logger.warning("MLflow does not answer: it does not know that these runs have ended: %s", ", ".join([*left]))


def log_params(run: str, params: Mapping[str, Any]) -> None:
    """Log settings. Those of a resumed run that are there already are left as they are."""
    known = store_client().get_run(run).data.params
    fresh = [Param(name, str(value)[:6000]) for name, value in params.items() if name not in known]
    store_client().log_batch(run, params=fresh)


def log_metrics(run: str, records: Iterable[Mapping[str, float]]) -> None:
    """Log records, each with its `step` and metrics by name. Metrics that are not finite are left out."""
    send_metrics(run, [timed(record) for record in records])


def log_metrics_once(run: str, record: Mapping[str, float]) -> None:
    """Log a record as `log_metrics` does, but for the metrics that the run has at that step already."""
    client, step = store_client(), record["step"]
    fresh = {
        name: value
        for name, value in record.items()
        if name != "step" and all(point.step != step for point in client.get_metric_history(run, name))
    }
    if fresh:
        log_metrics(run, [{"step": step, **fresh}])


def timed(record: Mapping[str, float]) -> Timed:
    """The record, made now."""
    return int(time.time() * 1000), record


def send_metrics(run: str, backlog: list[Timed]) -> None:
    """Log records as `log_metrics` does, the first first; what MLflow has acknowledged is taken out of `backlog`.

    Another thread may append meanwhile. What was taken without an answer is sent again as it was, time and all: MLflow
    keeps it once.
    """
    while backlog:
        taken, metrics = _request(backlog)
        store_client().log_batch(run, metrics=metrics)
        del backlog[:taken]


def _request(backlog: Iterable[Timed]) -> tuple[int, list[Metric]]:
    """How many of the first records fit into a request, one at least, and their metrics."""
    taken, metrics = 0, []
    for timestamp, record in backlog:
        more = [
            Metric(name, float(value), timestamp, int(record["step"]))
            for name, value in record.items()
            if name != "step" and math.isfinite(value)
        ]
        if taken and len(metrics) + len(more) > _BATCH:
            break
        taken, metrics = taken + 1, metrics + more
    return taken, metrics


def last_step(run: str, metric: str) -> int:
    """The highest step that has the metric; 0 if none has."""
    return max((point.step for point in store_client().get_metric_history(run, metric)), default=0)


def log_evaluation(settings: Mapping[str, Any], rows: Sequence["Row"], files: Iterable[Path]) -> str:
    """A run of its own for an evaluation: settings, figures as `task/set/setting/psnr` and so on, files; its id.

    The step of a figure is its k, so that MLflow draws a sweep; 0 where the model's own was used.
    """
    run = start_run("evaluation", tags={"git_commit": origin.git_commit()})
    log_params(run, {name: value for name, value in settings.items() if value not in ("", None, {})})
    records = []
    for row in rows:
        place = re.sub(r"[^\w\-. /]", " ", f"{row.task}/{row.set}/{row.setting}")
        figures = {name: getattr(row, name) for name in ("input_psnr", "input_ssim", "psnr", "ssim", "seconds")}
        figures |= row.also
        records.append({"step": row.k or 0, **{f"{place}/{name}": value for name, value in figures.items()}})
    log_metrics(run, records)
    for file in files:
        log_artifact(run, file)
    end_run(run)
    return run


def set_tags(run: str, tags: Mapping[str, str]) -> None:
    """Tags of a run."""
    store_client().log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])


def log_artifact(run: str, path: Path, folder: str | None = None) -> None:
    """Copy a file to the run's artifacts."""
    store_client().log_artifact(run, str(path), folder)


def run_data(run: str) -> tuple[dict[str, str], dict[str, float], dict[str, str]]:
    """A run's (params, last metrics, tags)."""
    data = store_client().get_run(run).data
    return dict(data.params), dict(data.metrics), dict(data.tags)


def find_run(run: str) -> tuple[dict[str, str], dict[str, float], dict[str, str]] | None:
    """`run_data`, or None if there is no such run, or it was deleted."""
    return run_data(run) if _exists(run) else None


def register(task: str, run: str, weights: Path, *, tags: Mapping[str, str], card: str) -> str:
    """Log the weights as a pyfunc that takes and returns images, and register it; the version's number.

    weights: a file `weights.safetensors`; it lies at `artifacts/weights.safetensors` of the model, where `kgt.registry`
    looks for it. card: markdown, the version's description. Raises ValueError for a file of another name.
    """
    if weights.name != Path(WEIGHTS_ARTIFACT).name:
        raise ValueError(f"{weights}: a registered model's weights file is named {Path(WEIGHTS_ARTIFACT).name}")
    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
    with in_one_line(), our_uri(), warnings.catch_warnings(), mlflow.start_run(run_id=run):
        warnings.filterwarnings("ignore", module="mlflow")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"weights": str(weights)},
            code_paths=[str(ROOT / "kgt")],
            pip_requirements=origin.requirements("numba", "numpy", "pillow", "safetensors", "torch"),
            signature=ModelSignature(_input_schema(task) or images, images),
            input_example=_example(task),
        )
    _make_model(model_name(task))
    with our_uri():  # to resolve the model's own address it asks the global one
        version = store_client().create_model_version(
            model_name(task), info.model_uri, run_id=run, tags=dict(tags), description=card, model_id=info.model_id
        )
    return str(version.version)


def version_of(task: str, run: str) -> str | None:
    """The newest version of the task's model that the run registered, if it did."""
    found = store_client().search_model_versions(f"name='{model_name(task)}' and run_id='{run}'")
    return str(max(int(version.version) for version in found)) if found else None


def set_alias(task: str, alias: str, version: str, into: str = "") -> None:
    """Point the alias at the version."""
    store_client().set_registered_model_alias(model_name(task, into), alias, version)


def get_alias(task: str, alias: str, into: str = "") -> ModelVersion | None:
    """The version that the alias points at; None where there is no such alias, or no such model.

    It is looked for among the models that the account sees: asked for by name, a server denies one that is not there.
    """
    found = store_client().search_registered_models(f"name='{model_name(task, into)}'")
    version = found[0].aliases.get(alias) if found else None
    return None if version is None else get_version(model_name(task, into), version)


def get_version(name: str, version: str) -> ModelVersion:
    """A version of a registered model, which exists."""
    return store_client().get_model_version(name, version)


def copy_version(task: str, version: str, into: str) -> str:
    """The number that the version has in the model it is promoted into; it is copied unless it was before."""
    client, target, original = store_client(), model_name(task, into), get_version(model_name(task), version)
    _make_model(target)
    for copied in client.search_model_versions(f"name='{target}'"):
        if _is_copy(copied, original):
            return str(copied.version)
    copy = client.create_model_version(
        target,
        _address(original),
        original.run_id,
        original.tags,
        description=original.description,
        model_id=original.model_id,
    )
    return str(copy.version)


def copied_from(task: str, copy: ModelVersion) -> str | None:
    """The version of the task's model that `copy` is one of; None where that was deleted."""
    originals = store_client().search_model_versions(f"name='{model_name(task)}'")
    return next((str(original.version) for original in originals if _is_copy(copy, original)), None)


def _is_copy(copy: ModelVersion, original: ModelVersion) -> bool:
    """By its weights, too: a model that was deleted and made anew gives its numbers to others."""
    digest, own = (version.tags.get("weights_sha256") for version in (copy, original))
    return copy.source == _address(original) and digest == own


def _address(version: ModelVersion) -> str:
    return f"models:/{version.name}/{version.version}"


def set_version_tags(task: str, version: str, tags: Mapping[str, str], into: str = "") -> None:
    """Tags of a registered version."""
    for name, value in tags.items():
        store_client().set_model_version_tag(model_name(task, into), version, name, value[:_TAG_CHARACTERS])


def _make_model(name: str) -> None:
    """Make the registered model if it is not there. A team's server lets its admin alone (infra/mlflow_account.py)."""
    if store_client().search_registered_models(f"name='{name}'"):
        return
    try:
        store_client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(ErrorCode.RESOURCE_ALREADY_EXISTS):
            raise


def _exists(run: str) -> bool:
    try:
        return store_client().get_run(run).info.lifecycle_stage == "active"
    except PermissionDenied:  # what a server with accounts says
        return False
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(ErrorCode.RESOURCE_DOES_NOT_EXIST):
            return False
        raise


def _example(task: str) -> np.ndarray:
    """A gray ramp, as small as makes sense, as the task's models take it."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(1, 8, 8)
    return ramp if task == "demosaic" else np.repeat(ramp[..., None], 3, axis=3)


def _input_schema(task: str) -> Schema | None:
    """`demosaic` takes mosaics, one channel; all other tasks colour images."""
    return Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]) if task == "demosaic" else None
