"""`models:/` addresses: from MLflow's registry to a weights file. The one module of the library that knows MLflow."""

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kgt.errors import UserError
from kgt.home import home, tracking_uri
from kgt.tasks import nearest

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "kgt"
"""The one experiment that has the runs of all tasks."""

INTO = re.compile(r"[a-z0-9-]+")
"""What the name of a second model of a task may end in, see `model_name`."""

WEIGHTS_ARTIFACT = "artifacts/weights.safetensors"
"""Where a registered KGT keeps its weights, below the model's root."""

_ADDRESS = re.compile(r"models:/(?P<name>[^/@']+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def model_name(task: str, into: str = "") -> str:
    """The registered model of a task; or the one that its versions are promoted `into`."""
    return f"kgt-{task}-{into}" if into else f"kgt-{task}"


def is_address(model: str) -> bool:
    """Whether it is the registry that is meant, not a file."""
    return model.startswith("models:")


def resolve(address: str) -> tuple[str, str]:
    """(registered model, version) that `models:/<name>@<alias>` or `models:/<name>/<version>` leads to.

    The registry is that of `kgt.home.tracking_uri()`. Raises UserError if the address has another form, if there is no
    such model, version or alias (naming what there is), or if the registry cannot be reached.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise UserError(f"model address '{address}': write models:/<name>@<alias> or models:/<name>/<version>")
    uri = tracking_uri()
    embedded = home() / "mlflow.db"
    if uri == f"sqlite:///{embedded}" and not embedded.exists():
        raise UserError(
            f"no model is registered yet: {embedded} does not exist (is KGT_HOME or MLFLOW_TRACKING_URI meant?)"
        )
    with _asking(address) as client:
        return match["name"], _version(client, match["name"], match["alias"], match["version"])


def fetch(address: str) -> Path:
    """The weights file of an address, downloaded once where it is remote.

    Raises UserError as `resolve` does, if what is registered is no KGT, and if it cannot be downloaded.
    """
    name, version = resolve(address)
    with _asking(address) as client:
        location = client.get_model_version_download_uri(name, version)
    try:
        with _at_a_prompt():
            weights = _download(location, tracking_uri())
    except _download_errors() as error:
        raise UserError(f"cannot download {address} from {location}: {_first_line(error)}") from error
    if weights is None:
        raise UserError(f"{address} is no KGT: there is no {WEIGHTS_ARTIFACT} in {location}")
    return weights


@contextmanager
def _asking(address: str) -> "Iterator[MlflowClient]":
    """The registry's client; what MLflow complains of, in one line."""
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise UserError(f"'{address}' needs MLflow: install it, or give a weights file") from error
    from sqlalchemy.exc import SQLAlchemyError  # what MLflow itself uses

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it is told here, without its trace
    uri = tracking_uri()
    try:
        with _at_a_prompt():
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, SQLAlchemyError, ImportError) as error:  # the last of a database whose driver is not there
        raise UserError(f"cannot look up {address} in {uri}: {_first_line(error)}") from error


@contextmanager
def _at_a_prompt() -> Iterator[None]:
    """A server that is not there is told soon, and there is no progress bar for one file. MLflow has it of no argument.

    What a command does afterwards, such as a training, may be as patient as ever.
    """
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ |= ours
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    listed = len(lines) > 2 and lines[1].startswith("##### File")  # as MLflow does with downloads that failed
    return lines[2 if listed else 0]


def _version(client: "MlflowClient", name: str, alias: str | None, number: str | None) -> str:
    """The version meant, which exists."""
    found = client.search_registered_models(f"name='{name}'")
    if not found:
        known = [model.name for model in client.search_registered_models()]
        raise UserError(f"no registered model '{name}': {nearest(name, known) if known else 'there is none yet'}")
    if alias is not None:
        aliases = found[0].aliases
        if alias not in aliases:
            there = f"it has {', '.join(sorted(aliases))}" if aliases else "it has none"
            raise UserError(f"model '{name}' has no alias '{alias}': {there}")
        return str(aliases[alias])
    numbers = sorted(int(version.version) for version in client.search_model_versions(f"name='{name}'"))
    if int(number) not in numbers:
        raise UserError(f"model '{name}' has no version {number}: it has {', '.join(map(str, numbers)) or 'none'}")
    return str(int(number))


def _download_errors() -> tuple[type[Exception], ...]:
    """What may go wrong in a download: of MLflow, of HTTP or the disk, and of S3 itself."""
    from mlflow.exceptions import MlflowException

    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:  # then MLflow has no S3 either
        return MlflowException, OSError
    return MlflowException, OSError, BotoCoreError


def _download(location: str, uri: str) -> Path | None:
    """The weights below `location`: a local store's own file, else a copy under `home()`, as versions never change.

    None where there are none.
    """
    from mlflow.artifacts import download_artifacts, list_artifacts

    source = f"{location.rstrip('/')}/{WEIGHTS_ARTIFACT}"
    above, name = source.rsplit("/", 1)
    kept = home() / "cache" / hashlib.blake2b(f"{uri} {source}".encode(), digest_size=16).hexdigest() / name
    if not kept.exists():
        if all(Path(found.path).name != name for found in list_artifacts(artifact_uri=above, tracking_uri=uri)):
            return None
        if location.startswith(("file:", "/")):
            return Path(download_artifacts(artifact_uri=source, tracking_uri=uri))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            os.replace(download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=uri), kept)
    return kept
