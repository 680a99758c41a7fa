"""Makes an account of a team's MLflow, or gives one that is there a new password, which is read from standard input.

    openssl rand -hex 24 | tee password | python infra/mlflow_account.py training role=train
    python infra/mlflow_account.py promoter role=promote < password

The server is MLFLOW_TRACKING_URI; who may do this is its admin: MLFLOW_TRACKING_USERNAME=admin and
MLFLOW_TRACKING_PASSWORD. Everyone reads. `train` logs runs, registers models and moves their aliases; `promote` moves
aliases and writes the tags of versions, and logs nothing.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

if __name__ == "__main__":  # a script's own folder comes first otherwise
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import requests

from kgt.errors import UserError, as_command
from kgt.home import tracking_uri
from pipelines.options import about, parse

ROLES = {
    "read": (),
    "train": ("experiment", "registered_model"),
    "promote": ("registered_model",),
}
"""What an account may edit, all of a kind."""

SHORTEST = 12

CREATE, RENEW = "2.0/mlflow/users/create", "2.0/mlflow/users/update-password"
GRANT, REVOKE = "3.0/mlflow/users/permissions/grant", "3.0/mlflow/users/permissions/revoke"


@dataclass
class Options:
    """What the command line can say after the name."""

    role: Literal["read", "train", "promote"] = field(default="read", metadata=about("read, train or promote"))


@as_command()
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    if {"-h", "--help"} & set(argv):
        parse(Options, ["--help"], __doc__)
    if not argv or "=" in argv[0]:
        raise UserError("name the account first, as in: python infra/mlflow_account.py training role=train")
    name, *settings = argv
    role = parse(Options, settings, __doc__).role
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        raise UserError("MLFLOW_TRACKING_URI names no server: accounts are those of a server")
    password = sys.stdin.readline().strip()
    if len(password) < SHORTEST:
        raise UserError(f"the password, the first line of standard input, needs at least {SHORTEST} characters")
    print(_make(uri, name, password, role))
    return 0


def _make(uri: str, name: str, password: str, role: str) -> str:
    """Make or renew the account; what was done. Raises UserError where the server says no."""
    account = {"username": name, "password": password}
    new = _ask(uri, "POST", CREATE, account, unless="RESOURCE_ALREADY_EXISTS")
    for kind in sorted({kind for kinds in ROLES.values() for kind in kinds}):
        place = {"username": name, "resource_type": kind, "resource_id": "*"}
        if kind in ROLES[role]:
            _ask(uri, "POST", GRANT, place | {"permission": "EDIT"}, unless="RESOURCE_ALREADY_EXISTS")
        else:
            _ask(uri, "POST", REVOKE, place, unless="RESOURCE_DOES_NOT_EXIST")
    if not new:
        if name == os.environ.get("MLFLOW_TRACKING_USERNAME"):
            account["current_password"] = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
        _ask(uri, "PATCH", RENEW, account)  # last: it may be the password that this process asks with
    return f"{name} {'is made' if new else 'has a new password'}, and may {role}"


def _ask(uri: str, method: str, what: str, body: dict[str, str], unless: str = "") -> bool:
    """Whether the server did it; not so for the error `unless`. Raises UserError for any other."""
    admin = (os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    address = f"{uri.rstrip('/')}/api/{what}"
    try:
        answer = requests.request(method, address, json=body, auth=admin, timeout=30)
    except requests.RequestException as error:
        raise UserError(f"MLflow at {uri} does not answer: {type(error).__name__}") from error
    if answer.status_code in (401, 403):
        raise UserError(
            f"MLflow at {uri} does not allow it: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an admin's"
        )
    if answer.ok:
        return True
    said = answer.json() if answer.headers.get("Content-Type", "").startswith("application/json") else {}
    if unless and said.get("error_code") == unless:
        return False
    raise UserError(f"MLflow at {uri} does not do it: {said.get('message', answer.status_code)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
