"""A team's MLflow as it is run: PostgreSQL, artifacts in a bucket, an account for everyone, and who may do what."""

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
import numpy as np
import pytest
import requests
import torch
from skimage import data

from infra import mlflow_account
from kgt.config import KGTConfig
from kgt.errors import UserError
from kgt.imaging import write_image
from kgt.model import KGT
from kgt.registry import fetch, model_name
from kgt.tasks import TASKS
from kgt.weights import save_weights
from tests.infra.account import Account
from tests.infra.test_cluster_job import BIN, free_port, wait_for
from training import promote, tracking
from training.mlflow_client import store_client

pytestmark = pytest.mark.slow  # minutes, most of them of the server's own start

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

    def __init__(self, url: str, log: Path, database: int) -> None:
        """database: PostgreSQL's port."""
        self.url, self.log, self.database = url, log, database

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


@pytest.fixture(scope="module")
def server(aws_server: Account, root: Path) -> Iterator[Server]:
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
            server = Server(f"http://127.0.0.1:{port}", log, database)
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


@pytest.fixture
def act_as(server: Server, monkeypatch: pytest.MonkeyPatch) -> As:
    return As(server, monkeypatch)


def register(folder: Path, shift: float) -> str:
    """A version that returns its input, brighter by `shift`: the smaller, the better. It becomes the challenger."""
    model = KGT(KGTConfig(shape="u", dim=8, layers=(1, 1), heads=(1, 1), window=8))
    with torch.no_grad():
        list(model.network.modules())[-1].bias.fill_(shift)
    save_weights(model, folder / "weights.safetensors", metadata={"task": "denoise"})
    run = tracking.start_run("test")
    tracking.log_params(run, {"steps": 1})
    tracking.log_metrics(run, [{"step": 1, "loss": 0.5}])
    version = tracking.register("denoise", run, folder / "weights.safetensors", tags={}, card="a test")
    tracking.set_alias("denoise", "challenger", version)
    return version


def champion(into: str = "") -> str | None:
    found = tracking.get_alias("denoise", "champion", into)
    return str(found.version) if found else None


def test_a_model_s_way_from_training_to_champion(
    act_as: As, aws_server: Account, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for left in range(136, 456, 64):
        write_image(tmp_path / "photos" / f"{left}.png", np.ascontiguousarray(data.astronaut()[:64, left : left + 64]))
    poll = ["task=[denoise,sr]", f"images={tmp_path / 'photos'}", "tasks.denoise.sigma=50", "only_new=true"]
    poll += ["lineage=false", "max_latency_ratio=1000", f"store=file://{tmp_path}/locks"]
    act_as("training")
    first = register(tmp_path, 0.05)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        kept = boto3.client("s3", endpoint_url=aws_server.url).list_objects_v2(Bucket="artifacts")
    assert any(entry["Key"].endswith("artifacts/weights.safetensors") for entry in kept["Contents"])

    act_as("reader")
    assert fetch("models:/kgt-denoise@challenger").stat().st_size > 0
    capsys.readouterr()
    assert promote.main(poll) == 2
    assert "does not allow reader to do this" in capsys.readouterr().err
    for forbidden in (
        lambda: tracking.set_alias("denoise", "champion", first),
        lambda: tracking.set_version_tags("denoise", first, {"promotion.verdict": "promoted"}),
        lambda: tracking.start_run("reader's"),
    ):
        with pytest.raises(UserError, match="does not allow reader"):
            forbidden()
    assert champion() is None

    act_as("promoter")
    assert promote.main(poll) == 0
    assert champion() == first
    with pytest.raises(UserError, match="does not allow promoter"):
        tracking.start_run("promoter's")
    decided = capsys.readouterr().out
    assert "promoted" in decided
    assert promote.main(poll) == 0
    assert capsys.readouterr().out == ""  # decided about already

    poll.remove("only_new=true")
    assert promote.main([*poll[1:], "task=denoise", "into=prod"]) == 0
    assert champion("prod") == "1"
    act_as("training")
    second = register(tmp_path, 0.01)
    with pytest.raises(UserError, match="does not allow training"):
        tracking.set_alias("denoise", "champion", "1", "prod")
    act_as("promoter")
    tracking.set_alias("denoise", "previous", first)
    tracking.set_alias("denoise", "champion", second)
    assert promote.main(["task=denoise", "rollback=true", f"store=file://{tmp_path}/locks"]) == 0
    assert champion() == first


def test_nobody_but_the_admin_makes_experiments_and_models(act_as: As, server: Server) -> None:
    """MLflow gives whoever makes one all rights over it: who came before training would own what users get."""
    for account in ("reader", "training", "promoter"):
        before = permissions(server, account)
        act_as(account)
        for forbidden in (
            lambda: store_client().create_registered_model("kgt-denoise-early"),
            lambda: store_client().create_experiment("mine"),
        ):
            with pytest.raises(UserError, match=f"does not allow {account}"):
                forbidden()
        prompt = {"name": "mine", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]}
        place, whose = f"{server.url}/api/{mlflow_account.CREATE_MODEL}", (account, PASSWORDS[account])
        assert requests.post(place, json=prompt, auth=whose, timeout=120).status_code == 403
        assert permissions(server, account) == before
    assert permissions(server, "reader") == set()


def test_models_are_there_before_anything_is_registered_and_not_a_reader_s(act_as: As) -> None:
    act_as("reader")
    there = {model.name for model in store_client().search_registered_models()}
    assert there == {model_name(task, into) for task in TASKS for into in ("", "prod")}
    for forbidden in (
        lambda: store_client().set_registered_model_tag("kgt-sr", "mine", "yes"),
        lambda: store_client().rename_registered_model("kgt-sr", "kgt-mine"),
        lambda: store_client().delete_registered_model("kgt-sr"),
        lambda: store_client().create_model_version("kgt-sr", "s3://artifacts/mine"),
    ):
        with pytest.raises(UserError, match="does not allow reader"):
            forbidden()


def test_nobody_is_let_in_without_an_account_or_by_another_name(server: Server) -> None:
    models = "/api/2.0/mlflow/registered-models/search"
    assert server.status(models) == 401
    assert server.status(models, account="reader") == 200
    assert server.status(models, account="reader", host="elsewhere.example") == 403
    said = server.log.read_text()
    assert not [name for name, password in PASSWORDS.items() if password in said]


def test_an_account_is_renewed_and_loses_what_its_role_has_not(
    act_as: As, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what it owned, as MLflow lets those own a model who made it, and what every model's editors had."""
    monkeypatch.setitem(PASSWORDS, "other", secrets.token_hex(16))
    make_account(root, server, "other", "role=train")
    act_as("other")
    tracking.start_run("mine")
    for model, permission in (("kgt-sr", "MANAGE"), ("*", "EDIT")):
        held = {"resource_type": "registered_model", "resource_id": model}
        if model != "*":
            ask(server, "POST", mlflow_account.REVOKE, username="other", **held)
        ask(server, "POST", mlflow_account.GRANT, username="other", permission=permission, **held)
    monkeypatch.setitem(PASSWORDS, "other", secrets.token_hex(16))
    make_account(root, server, "other", "role=read")
    assert permissions(server, "other") == set()
    act_as("other")
    for forbidden in (
        lambda: tracking.start_run("no more"),
        lambda: store_client().set_registered_model_tag("kgt-sr", "mine", "still"),
    ):
        with pytest.raises(UserError, match="does not allow other"):
            forbidden()


def test_what_an_account_has_by_a_role_of_mlflow_is_told(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASSWORDS, "friend", secrets.token_hex(16))
    make_account(root, server, "friend", "role=read")
    role = ask(server, "POST", "3.0/mlflow/roles/create", name="editors", workspace="default")["role"]["id"]
    grant = {"resource_type": "registered_model", "resource_pattern": "*", "permission": "EDIT"}
    ask(server, "POST", "3.0/mlflow/roles/permissions/add", role_id=role, **grant)
    ask(server, "POST", "3.0/mlflow/roles/assign", username="friend", role_id=role)
    said = make_account(root, server, "friend", "role=read", code=2)
    assert "friend still has EDIT of registered_model * by MLflow's role editors" in said


def test_an_admin_renews_its_own_password(root: Path, server: Server) -> None:
    """And takes the old one back, with which all other tests go on."""
    first, second = PASSWORDS["admin"], secrets.token_hex(16)
    for before, after in ((first, second), (second, first)):
        done = subprocess.run(
            [sys.executable, root / "infra" / "mlflow_account.py", "admin", "role=read"],
            input=after,
            env=os.environ | log_in(server, "admin") | {"MLFLOW_TRACKING_PASSWORD": before},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "admin has a new password, and may all, as an admin of the server\n"
    assert server.status("/api/2.0/mlflow/users/get?username=admin", "admin") == 200


def test_a_dump_is_put_back_into_an_empty_database_and_over_another(server: Server, tmp_path: Path) -> None:
    """With what the CronJob `backup` and the runbook give to PostgreSQL's programs."""
    programs, dump = (postgres_programs() / "initdb").resolve().parent, tmp_path / "mlflow.dump"

    def run(program: str, *arguments: str, of: str = "again") -> str:
        where = ["--host=127.0.0.1", f"--port={server.database}", "--username=mlflow"]
        command = [programs / program, *where, *arguments, of]
        environment = os.environ | {"PGPASSWORD": PASSWORDS["database"]}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def accounts(database: str) -> str:
        return run("psql", "--tuples-only", "--command=select username from users order by 1", of=database)

    run("pg_dump", "--format=custom", f"--file={dump}", of="postgres")
    run("createdb")
    for _ in range(2):
        run("pg_restore", "--clean", "--if-exists", "--single-transaction", "--dbname=again", of=str(dump))
        assert accounts("again") == accounts("postgres")
        run("psql", "--command=update users set username = 'another ' || username")
    assert "reader" in accounts("postgres")


def test_a_password_that_is_another_by_now_is_told_as_such(act_as: As, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as("training")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secrets.token_hex(16))
    with pytest.raises(UserError, match=r"does not know this account: .*~/\.mlflow/credentials"):
        tracking.open_tracking()


def test_only_an_admin_makes_accounts(
    act_as: As, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as("reader")
    (tmp_path / "in").write_text("a long enough password\n")
    with open(tmp_path / "in") as standard_input:
        monkeypatch.setattr("sys.stdin", standard_input)
        assert mlflow_account.main(["friend", "role=promote"]) == 2
    said = capsys.readouterr().err
    assert "does not allow it: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an admin's" in said
    assert "a long enough password" not in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["role=promote", "into=[kgt/prod]"], "into=kgt/prod: write letters, digits and dashes"),
        (["role=train", "into=[prod]"], "into=prod: role=train promotes nothing"),
        (["role=all"], "role=all"),
    ],
)
def test_mistakes_are_told_in_a_line(settings: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert mlflow_account.main(["someone", *settings]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MLFLOW_AUTH_ADMIN_PASSWORD": ""}, "no server without a password"),
        ({"MLFLOW_FLASK_SERVER_SECRET_KEY": ""}, "MLFLOW_FLASK_SERVER_SECRET_KEY: is not set"),
        ({"DATABASE": "postgresql+psycopg://mlflow:hidden@host/mlflow"}, "DATABASE holds a password"),
        ({"ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS: name the hosts"),
    ],
)
def test_the_server_does_not_start_open(change: dict[str, str], words: str, root: Path) -> None:
    whole = {
        "DATABASE": "postgresql+psycopg://mlflow@host/mlflow",
        "ARTIFACT_STORE": "s3://b",
        "ALLOWED_HOSTS": "localhost:5000",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a password",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key",
        "PATH": "/usr/bin:/bin",
    }
    script = root / "infra" / "mlflow_server.sh"
    done = subprocess.run([script], env=whole | change, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert words in done.stderr
    assert "hidden" not in done.stdout + done.stderr
