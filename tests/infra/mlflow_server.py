"""A team's MLflow as it is run: PostgreSQL, artifacts in a bucket, an account for everyone."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from infra import mlflow_account
from tests.infra.account import Account
from tests.infra.test_cluster_job import BIN, wait_for
from tests.ports import free_port

PASSWORDS = {name: secrets.token_hex(16) for name in ("admin", "training", "promoter", "reader", "database", "session")}


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs; Debian keeps them off PATH. Skips the test where there are none."""
    on_path = shutil.which("initdb")
    found = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip(
            "PostgreSQL is absent: no initdb on PATH or in /usr/lib/postgresql/*/bin (apt-get install postgresql)"
        )
    return found[-1].parent


@contextmanager
def postgres(folder: Path) -> Iterator[int]:
    """An empty PostgreSQL, whose user `mlflow` has a password; its port. It refuses to run as root."""
    programs = postgres_programs()
    password = folder / "password"
    password.write_text(PASSWORDS["database"])
    someone = {}
    if os.getuid() == 0:
        someone = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, password):
            shutil.chown(path, "nobody", "nogroup")
    place, port = str(folder / "data"), free_port()
    made = [
        programs / "initdb",
        "-D",
        place,
        "-U",
        "mlflow",
        "--auth=scram-sha-256",
        f"--pwfile={password}",
        "--no-sync",
    ]
    subprocess.run(made, check=True, capture_output=True, cwd=folder, **someone)
    server = subprocess.Popen(
        [
            *(programs / "postgres", "-D", place, "-p", str(port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **someone,
    )
    try:
        wait_for(port)
        yield port
    finally:
        server.terminate()
        server.wait(60)


class Server:
    """Where the server answers, and what it has said."""

    def __init__(self, url: str, log: Path, database: int, process: int) -> None:
        """database: PostgreSQL's port. process: the id of the one that started all others."""
        self.url, self.log, self.database, self.process = url, log, database, process

    def status(self, path: str, account: str = "", host: str = "") -> int:
        """The HTTP status of a GET, with or without an account."""
        headers = {"Host": host} if host else {}
        if account:
            headers["Authorization"] = f"Basic {b64encode(f'{account}:{PASSWORDS[account]}'.encode()).decode()}"
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


@contextmanager
def serving(aws_server: Account, root: Path) -> Iterator[Server]:
    """The server with its accounts `admin`, `training`, `promoter` and `reader`."""
    aws_server.reset()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    # Not below pytest's folder, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="mlflow-") as name, postgres(Path(name)) as database:
        port = free_port()
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in keys.items():
                patch.setenv(variable, value)
            boto3.client("s3", endpoint_url=aws_server.url).create_bucket(Bucket="artifacts")
        environment = (
            os.environ
            | keys
            | {
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "AWS_ENDPOINT_URL": aws_server.url,
                "DATABASE": f"postgresql+psycopg://mlflow@127.0.0.1:{database}/postgres",
                "PGPASSWORD": PASSWORDS["database"],
                "ARTIFACT_STORE": "s3://artifacts",
                "ALLOWED_HOSTS": f"127.0.0.1:{port}",
                "PORT": str(port),
                "WORKERS": "1",
                "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
                "MLFLOW_FLASK_SERVER_SECRET_KEY": PASSWORDS["session"],
                "TMPDIR": name,
            }
        )
        log = Path(name) / "log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                [root / "infra" / "mlflow_server.sh"], env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        try:
            server = Server(f"http://127.0.0.1:{port}", log, database, process.pid)
            deadline = time.monotonic() + 480
            while not answers(server):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            make_account(root, server, "reader", "role=read")
            make_account(root, server, "training", "role=train")
            make_account(root, server, "promoter", "role=promote", "into=[prod]")
            yield server
        finally:
            process.terminate()
            process.wait(60)


def answers(server: Server) -> bool:
    try:
        return server.status("/health") == 200
    except OSError:
        return False


def make_account(root: Path, server: Server, name: str, *settings: str, code: int = 0) -> str:
    """What the command says."""
    done = subprocess.run(
        [sys.executable, root / "infra" / "mlflow_account.py", name, *settings],
        input=PASSWORDS[name],
        env=os.environ | log_in(server, "admin"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def ask(server: Server, method: str, what: str, **body: object) -> dict[str, Any]:
    """What the server answers to its admin."""
    place = {"params" if method == "GET" else "json": body}
    answer = requests.request(method, f"{server.url}/api/{what}", auth=("admin", PASSWORDS["admin"]), **place)
    assert answer.ok, answer.text
    return answer.json()


def permissions(server: Server, account: str) -> set[tuple[str, str, str]]:
    found = ask(server, "GET", mlflow_account.PERMISSIONS, username=account)["permissions"]
    return {(grant["resource_type"], grant["resource_pattern"], grant["permission"]) for grant in found}


def log_in(server: Server, account: str) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_TRACKING_USERNAME": account,
        "MLFLOW_TRACKING_PASSWORD": PASSWORDS[account],
    }


class As:
    """Whose account this process has."""

    def __init__(self, server: Server, patch: pytest.MonkeyPatch) -> None:
        self._server, self._patch = server, patch

    def __call__(self, account: str) -> None:
        for name, value in log_in(self._server, account).items():
            self._patch.setenv(name, value)
