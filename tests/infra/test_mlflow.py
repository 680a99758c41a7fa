"""Who may do what on a team's MLflow, and that it comes back from a dump."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import psutil
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
from tests.infra.mlflow_server import (
    PASSWORDS,
    As,
    Server,
    ask,
    log_in,
    make_account,
    permissions,
    postgres_programs,
    serving,
)
from training import promote, tracking
from training.mlflow_client import store_client

pytestmark = pytest.mark.slow  # minutes, most of them of the server's own start


@pytest.fixture(scope="module")
def server(aws_server: Account, root: Path) -> Iterator[Server]:
    """See `serving`."""
    with serving(aws_server, root) as server:
        yield server


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


def test_it_serves_and_runs_no_jobs(server: Server) -> None:
    """MLflow's own jobs, which nobody here asks for, would take eight processes more, and hand pickles on."""
    commands = [process.cmdline() for process in psutil.Process(server.process).children(recursive=True)]
    assert commands
    assert [command for command in commands if "uvicorn" not in command] == []


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
