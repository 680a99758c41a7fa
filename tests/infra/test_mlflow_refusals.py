"""What a team's MLflow and its accounts refuse before anything is started or asked."""

import subprocess
from pathlib import Path

import pytest

from infra import mlflow_account


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
        ({"DATABASE": "postgresql+psycopg://mlflow@host/mlflow?password=hidden"}, "DATABASE holds a password"),
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
