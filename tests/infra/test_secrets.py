"""Planted secrets: the project's commands, when they succeed and when they fail, leave them nowhere."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import requests

from tests.infra.account import Account
from tests.infra.test_cluster_job import BIN, cluster

SECRETS = {
    name: f"planted{secrets.token_hex(16)}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD")
}
SECRETS["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
IN_ADDRESS = f"planted{secrets.token_hex(16)}"
"""A password that somebody puts into an address."""
IN_WEBHOOK = f"planted{secrets.token_hex(16)}"
"""What the alarms' address holds: who knows it may post there."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its logs. Not below pytest's folder: the paths of its sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def planted_environment(folder: Path) -> dict[str, str]:
    """What is in an environment beside its secrets: whose the account is, and where everything is left."""
    webhook = f"http://127.0.0.1:9/services/{IN_WEBHOOK}"
    return {**SECRETS, "MLFLOW_TRACKING_USERNAME": "somebody", "KGT_WEBHOOK": webhook, "KGT_HOME": str(folder / "home")}


@pytest.fixture
def command(root: Path, account: Account, tmp_path: Path, ray_folder: Path) -> Command:
    """Runs a script of the project with all secrets in its environment; what it says and leaves is below `tmp_path`."""

    def run(script: str, *settings: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = (
            os.environ | planted_environment(tmp_path) | {"RAY_TMPDIR": str(ray_folder), "AWS_MAX_ATTEMPTS": "1"} | more
        )
        done = subprocess.run(
            [sys.executable, root / script, *settings],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        with open(tmp_path / "said", "a") as said:
            said.write(done.stdout + done.stderr)
        return done

    return run


def holders(place: Path) -> list[str]:
    """The files below a folder that hold a secret, and which."""
    planted = {**SECRETS, "an address's": IN_ADDRESS, "the webhook's": IN_WEBHOOK}
    found = []
    for path in place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            found += [f"{path}: {name}" for name, secret in planted.items() if secret.encode() in data]
    return found


@pytest.mark.slow
def test_submitted_jobs_leave_no_secret(command: Command, ray_folder: Path, tmp_path: Path) -> None:
    """Shards, a model, an alarm and a mistake, on a cluster whose nodes have all of them in their environment."""
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="shards", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    store = "store=s3://shards/first"
    made = command("pipelines/synthesize.py", "task=denoise", "limit=4", "crop=64", "crops=2", "shards_min=1", store)
    assert made.returncode == 0, made.stderr

    small = ("model=kgt-tiny", "steps=1", "batch_size=2", "patch=32", "workers=1", "validation_pairs=1")
    train = ("python", "training/run.py", "task=denoise")
    spoilt = (*small, "steps=5", "lr=1e30", "warmup=0")
    nodes = (
        os.environ
        | planted_environment(tmp_path)
        | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    )
    with cluster(nodes, f"--temp-dir={ray_folder}") as address:

        def submit(name: str, *words: str) -> subprocess.CompletedProcess[str]:
            return command(
                "infra/submit.py", name, "env=[MLFLOW_TRACKING_USERNAME]", f"address={address}", "--", *words
            )

        trained = submit("train", *train, store, "out=s3://shards/runs/a", *small)
        assert trained.returncode == 0, trained.stdout + trained.stderr
        alarming = submit("alarm", *train, store, "out=s3://shards/runs/b", *spoilt)
        assert "ALARM denoise: NaN streak" in alarming.stdout
        assert "the alarm was not posted to $KGT_WEBHOOK: URLError" in alarming.stdout
        mistaken = submit("mistake", *train, "store=s3://nowhere/x", "out=s3://shards/runs/c", *small)
        assert mistaken.returncode == 2
        assert "there is no bucket 'nowhere'" in mistaken.stdout
        crashed = submit(
            "crash", "python", "-c", "import pipelines.s3_store as s; s._client().get_object(Bucket='a', Key='')"
        )
        assert "Traceback" in crashed.stdout
        token = {"Authorization": f"Bearer {SECRETS['RAY_AUTH_TOKEN']}"}
        jobs = requests.get(f"{address}/api/jobs/", headers=token, timeout=60).text
    assert jobs.count('"MLFLOW_TRACKING_USERNAME": "somebody"') == 4  # of the runtime environments, which all may read
    (tmp_path / "jobs.json").write_text(jobs)
    for entry in s3.list_objects_v2(Bucket="shards")["Contents"]:
        s3.download_file("shards", entry["Key"], str(tmp_path / entry["Key"].replace("/", "-")))
    assert (tmp_path / "home" / "mlflow.db").stat().st_size > 0
    assert list(tmp_path.glob("*CURRENT"))
    assert list(ray_folder.rglob("job-driver-train-*.log"))
    assert holders(tmp_path) + holders(ray_folder) == []


@pytest.mark.parametrize(
    ("script", "settings", "environment", "words"),
    [
        ("pipelines/synthesize.py", ["task=sr", "store=s3://nowhere/x"], {}, "there is no bucket 'nowhere'"),
        ("pipelines/synthesize.py", ["sore=s3://me:{}@bucket/x"], {}, "an address holds a password"),
        (
            "pipelines/datasets.py",
            ["list", "store=s3://bucket/x"],
            {"AWS_ENDPOINT_URL": "http://me:{}@127.0.0.1:9"},
            "AWS_ENDPOINT_URL holds a password",
        ),
        ("pipelines/datasets.py", ["list", "store=s3://b/x"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "not answer"),
        (
            "training/promote.py",
            ["images=sample"],
            {"MLFLOW_TRACKING_URI": "postgresql+psycopg://mlflow:{}@127.0.0.1:9/mlflow"},
            "PGPASSWORD for PostgreSQL",
        ),
        (
            "training/promote.py",
            ["images=sample", "store=s3://bucket/x"],
            {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
            "does not answer",
        ),
        ("training/run.py", ["task=sr", "store=s3://me:{}@bucket/x"], {}, "an address holds a password"),
        ("infra/submit.py", ["a", "upload=false", "address=http://127.0.0.1:9", "--", "true"], {}, "no Ray answers"),
        (
            "infra/submit.py",
            ["a", "env=[KGT_WEBHOOK]", "--", "true"],
            {},
            "everyone who sees the cluster would read it",
        ),
        ("infra/submit.py", ["a", "--", "true"], {"RAY_ADDRESS": "http://me:{}@127.0.0.1:9"}, "RAY_ADDRESS holds"),
    ],
)
def test_a_failure_is_one_line_without_a_secret(
    script: str, settings: list[str], environment: dict[str, str], words: str, command: Command, tmp_path: Path
) -> None:
    failed = command(
        script,
        *(setting.replace("{}", IN_ADDRESS) for setting in settings),
        **{name: value.replace("{}", IN_ADDRESS) for name, value in environment.items()},
    )
    assert failed.returncode == 2, failed.stderr
    (line,) = failed.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert holders(tmp_path) == []
