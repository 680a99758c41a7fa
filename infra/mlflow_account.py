"""Makes an account of a team's MLflow, or gives one that is there a new password, which is read from standard input.

    openssl rand -hex 24 | tee password | python infra/mlflow_account.py training role=train
    python infra/mlflow_account.py promoter role=promote into=[prod] < password

The server is MLFLOW_TRACKING_URI; who may do this is its admin: MLFLOW_TRACKING_USERNAME=admin and
MLFLOW_TRACKING_PASSWORD. Everyone reads. `train` logs runs to the experiment `kgt`, registers versions of `kgt-<task>`
and moves their aliases; `promote` moves aliases and writes the tags of versions, of `kgt-<task>` and of
`kgt-<task>-<into>`, and logs nothing. Experiment and models are made here, where they are missing: nobody else may.

An account may what it was last given here. All else that it was ever given, or owns since it made it, is taken away.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":  # a script's own folder comes first otherwise
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import requests

from kgt.errors import UserError, as_command
from kgt.home import tracking_uri
from kgt.registry import EXPERIMENT, INTO, model_name
from kgt.tasks import TASKS
from pipelines.options import about, parse_named

SHORTEST = 12

CREATE, RENEW = "2.0/mlflow/users/create", "2.0/mlflow/users/update-password"
GRANT, REVOKE = "3.0/mlflow/users/permissions/grant", "3.0/mlflow/users/permissions/revoke"
PERMISSIONS = "3.0/mlflow/users/permissions/list"
FIND_EXPERIMENT, CREATE_EXPERIMENT = "2.0/mlflow/experiments/get-by-name", "2.0/mlflow/experiments/create"
FIND_MODELS, CREATE_MODEL = "2.0/mlflow/registered-models/search", "2.0/mlflow/registered-models/create"

Place = tuple[str, str]
"""What a permission is for: kind and id of an experiment or a registered model."""


@dataclass
class Options:
    """What the command line can say after the name."""

    role: Literal["read", "train", "promote"] = field(default="read", metadata=about("read, train or promote"))
    into: list[str] = field(default_factory=list, metadata=about("promote: the names that it promotes copies into"))


@as_command()
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    wanted = "name the account first, as in: python infra/mlflow_account.py training role=train"
    name, options = parse_named(Options, argv, __doc__, wanted)
    check_into(options)
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        raise UserError("MLFLOW_TRACKING_URI names no server: accounts are those of a server")
    password = sys.stdin.readline().strip()
    if len(password) < SHORTEST:
        raise UserError(f"the password, the first line of standard input, needs at least {SHORTEST} characters")
    places = _places(uri, options)  # first: before there is an account, there is nothing that it could make its own
    print(_make(uri, name, password, options.role, places))
    return 0


def check_into(options: Options) -> None:
    """Raises UserError for a name that promotion does not take, or a role that promotes nothing."""
    for into in options.into:
        if not INTO.fullmatch(into):
            raise UserError(f"into={into}: write letters, digits and dashes, as in into=[prod]")
    if options.into and options.role != "promote":
        raise UserError(f"into={','.join(options.into)}: role={options.role} promotes nothing into a second model")


def _places(uri: str, options: Options) -> set[Place]:
    """What the role may edit. Experiment and models are made where they are missing."""
    models = {model_name(task, into) for task in TASKS for into in ("", *options.into)}
    asked = {"filter": "name LIKE 'kgt-%'", "max_results": "1000"}
    there = _ask(uri, "GET", FIND_MODELS, asked) or {}
    for model in sorted(models - {found["name"] for found in there.get("registered_models", [])}):
        _ask(uri, "POST", CREATE_MODEL, {"name": model})
    found = _ask(uri, "GET", FIND_EXPERIMENT, {"experiment_name": EXPERIMENT}, unless="RESOURCE_DOES_NOT_EXIST")
    experiment = found["experiment"] if found else _ask(uri, "POST", CREATE_EXPERIMENT, {"name": EXPERIMENT}) or {}
    if options.role == "read":
        return set()
    places = {("registered_model", model) for model in models}
    return places | {("experiment", experiment["experiment_id"])} if options.role == "train" else places


def _make(uri: str, name: str, password: str, role: str, places: set[Place]) -> str:
    """Make or renew the account; what was done. Raises UserError where the server says no."""
    account = {"username": name, "password": password}
    new = _ask(uri, "POST", CREATE, account, unless="RESOURCE_ALREADY_EXISTS") is not None
    admin = _allow(uri, name, places)
    if not new:
        if name == os.environ.get("MLFLOW_TRACKING_USERNAME"):
            account["current_password"] = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
        _ask(uri, "PATCH", RENEW, account)  # last: it may be the password that this process asks with
    done = f"{name} {'is made' if new else 'has a new password'}"
    return f"{done}, and may all, as an admin of the server" if admin else f"{done}, and may {role}"


def _allow(uri: str, name: str, places: set[Place]) -> bool:
    """Let the account edit these places and no others; whether it is an admin, whom nothing is denied.

    Raises UserError where it has more by a role that was made in MLflow, which is not this command's to take away.
    """
    held = _permissions(uri, name)["permissions"]
    kept = {_place(grant) for grant in held if grant["permission"] == "EDIT"} & places
    for kind, resource in {_place(grant) for grant in held} - kept:
        place = {"username": name, "resource_type": kind, "resource_id": resource}
        _ask(uri, "POST", REVOKE, place, unless="RESOURCE_DOES_NOT_EXIST")
    for kind, resource in places - kept:
        place = {"username": name, "resource_type": kind, "resource_id": resource}
        _ask(uri, "POST", GRANT, place | {"permission": "EDIT"}, unless="RESOURCE_ALREADY_EXISTS")
    now = _permissions(uri, name)
    for grant in now["permissions"]:
        if _place(grant) not in places or grant["permission"] != "EDIT":
            raise UserError(
                f"{name} still has {grant['permission']} of {' '.join(_place(grant))} by MLflow's role "
                f"{grant['role_name']}: take that role away in MLflow, then give this command again"
            )
    return now["is_admin"]


def _permissions(uri: str, name: str) -> dict[str, Any]:
    return _ask(uri, "GET", PERMISSIONS, {"username": name}) or {}


def _place(grant: dict[str, str]) -> Place:
    return grant["resource_type"], grant["resource_pattern"]


def _ask(uri: str, method: str, what: str, asked: dict[str, str], unless: str = "") -> dict[str, Any] | None:
    """The server's answer; None for the error `unless`. Raises UserError for any other."""
    admin = (os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    address, place = f"{uri.rstrip('/')}/api/{what}", "params" if method == "GET" else "json"
    try:
        answer = requests.request(method, address, **{place: asked}, auth=admin, timeout=120)
    except requests.RequestException as error:
        raise UserError(f"MLflow at {uri} does not answer: {type(error).__name__}") from error
    if answer.status_code in (401, 403):
        raise UserError(
            f"MLflow at {uri} does not allow it: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an admin's"
        )
    said = answer.json() if answer.headers.get("Content-Type", "").startswith("application/json") else {}
    if answer.ok:
        return said
    if unless and said.get("error_code") == unless:
        return None
    raise UserError(f"MLflow at {uri} does not do it: {said.get('message', answer.status_code)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
