"""MLflow's client as the rest of `training/` uses it: quiet, with our store, and with its troubles told in one line."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from kgt.errors import UserError
from kgt.home import tracking_uri

# MLflow sets its own levels while it is imported.
for _logger in (
    "alembic.runtime.migration",
    "mlflow.models.model",
    "mlflow.store.model_registry.abstract_store",
    "mlflow.tracking.fluent",
):
    logging.getLogger(_logger).setLevel(logging.ERROR)
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors are raised, too, and told here

_TROUBLE = (
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.TEMPORARILY_UNAVAILABLE,
    ErrorCode.REQUEST_LIMIT_EXCEEDED,
    ErrorCode.UNAUTHENTICATED,
)
"""What a server says that is gone, busy or refuses; all other errors are about what was asked of it."""


class TrackingError(UserError):
    """MLflow does not answer, or refuses."""


class PermissionDenied(TrackingError):
    """The account may not do what was asked of MLflow."""


def store_client() -> "_Client":
    """That of the store that `kgt.home.tracking_uri` names. Raises TrackingError for a database that is gone."""
    with in_one_line():
        return _client_of(tracking_uri())


@contextmanager
def in_one_line() -> Iterator[None]:
    """Raises TrackingError for a server that is gone, busy or refuses; other errors are about what was asked of it."""
    try:
        yield
    except ImportError as error:
        raise TrackingError(f"MLflow at {tracking_uri()} needs what is not installed: {error}") from error
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        refusal = getattr(error, "response", None)  # artifacts that a server passes on are refused by HTTP alone
        denied = getattr(error, "error_code", None) == ErrorCode.Name(ErrorCode.PERMISSION_DENIED)
        if denied or getattr(refusal, "status_code", None) == 403:
            account = os.environ.get("MLFLOW_TRACKING_USERNAME", "this account")
            raise PermissionDenied(
                f"MLflow at {tracking_uri()} does not allow {account} to do this: "
                "its admin gives accounts their roles (infra/mlflow_account.py)"
            ) from error
        if getattr(error, "error_code", None) == ErrorCode.Name(ErrorCode.UNAUTHENTICATED):
            raise TrackingError(
                f"MLflow at {tracking_uri()} does not know this account: name and password are "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or in ~/.mlflow/credentials"
            ) from error
        if getattr(error, "error_code", None) not in (None, *(ErrorCode.Name(code) for code in _TROUBLE)):
            raise
        raise TrackingError(f"MLflow at {tracking_uri()} fails: {str(error).splitlines()[0]}") from error


class _Client:
    """MLflow's client, whose every call tells of a server that is gone, busy or refuses by a TrackingError."""

    def __init__(self, uri: str) -> None:
        self._client = mlflow.MlflowClient(uri)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _told(getattr(self._client, name))


def _told(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def telling(*arguments: Any, **named: Any) -> Any:
        with in_one_line():
            return call(*arguments, **named)

    return telling


@cache
def _client_of(uri: str) -> _Client:
    return _Client(uri)


@contextmanager
def our_uri() -> Iterator[None]:
    """MLflow's fluent functions use our store. `mlflow.set_tracking_uri` would leave it in the environment for good."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before
