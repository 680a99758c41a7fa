import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer

from kgt.errors import UserError
from kgt.home import tracking_uri
from kgt.registry import WEIGHTS_ARTIFACT, fetch


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KGT_HOME, with a space in its name, where kgt-denoise has versions 1 and 2 (champion); kgt-empty has none."""
    home = tmp_path_factory.mktemp("a home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGT_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client = MlflowClient(tracking_uri(), tracking_uri())
        client.create_registered_model("kgt-empty")
        client.create_registered_model("kgt-denoise")
        for number in (1, 2):
            weights = home / f"m-{number}" / WEIGHTS_ARTIFACT
            weights.parent.mkdir(parents=True)
            weights.write_text(f"weights {number}")
            client.create_model_version("kgt-denoise", weights.parents[1].as_uri())
        client.set_registered_model_alias("kgt-denoise", "champion", "2")
    return home


@pytest.fixture(autouse=True)
def at_home(registry: Path, kgt_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGT_HOME", str(registry))


def test_an_alias_and_a_version_lead_to_their_weights(registry: Path) -> None:
    assert fetch("models:/kgt-denoise@champion") == registry / "m-2" / WEIGHTS_ARTIFACT
    assert fetch("models:/kgt-denoise/1").read_text() == "weights 1"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("models:/kgt-denose@champion", "no registered model 'kgt-denose': did you mean 'kgt-denoise'"),
        ("models:/kgt-denoise@challenger", "has no alias 'challenger': it has champion"),
        ("models:/kgt-empty@champion", "has no alias 'champion': it has none"),
        ("models:/kgt-denoise/7", "has no version 7: it has 1, 2"),
        ("models:/kgt-denoise", "write models:/<name>@<alias> or models:/<name>/<version>"),
        ("models:kgt-denoise@champion", "write models:/"),
        ("models:/kgt-denoise/latest", "write models:/"),
    ],
)
def test_an_address_that_leads_nowhere_says_what_there_is(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(address)


def test_before_anything_is_registered_no_database_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGT_HOME", str(tmp_path / "new"))
    with pytest.raises(UserError, match="no model is registered yet"):
        fetch("models:/kgt-denoise@champion")
    assert not (tmp_path / "new").exists()


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri(), tracking_uri())
    client.create_registered_model("other")
    client.create_model_version("other", tmp_path.as_uri())
    with pytest.raises(UserError, match=r"models:/other/1 is no KGT: there is no artifacts/weights\.safetensors"):
        fetch("models:/other/1")


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        UserError, match=r"cannot look up models:/kgt-denoise@champion in http://127\.0\.0\.1:9"
    ) as caught:
        fetch("models:/kgt-denoise@champion")
    assert "\n" not in str(caught.value)


@contextmanager
def answering(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """The address of a server whose status and page are what `answer` makes of a path with its query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, page = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_server_that_answers_otherwise_is_one_line(
    status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """As MLflow does whose database is gone, and what else may listen at an address."""
    page = b"<html>\n<title>Something</title>\n</html>\n"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(lambda _: (status, page)) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UserError, match=f"cannot look up models:/kgt-denoise@champion .*{status}") as caught:
            fetch("models:/kgt-denoise@champion")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+pg8000"])
def test_a_database_that_is_not_there_is_one_line(
    driver: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Nor, in the second case, what speaks to it."""
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{driver}://mlflow@127.0.0.1:9/mlflow")
    with pytest.raises(
        UserError, match=rf"cannot look up models:/kgt-denoise@champion in {re.escape(driver)}"
    ) as caught:
        fetch("models:/kgt-denoise@champion")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 bucket over real HTTP, which MLflow is told of."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="models")
    yield f"http://{host}:{port}"
    server.stop()


def remote(name: str) -> str:
    """A model whose artifacts MLflow has in S3; its address."""
    client = MlflowClient(tracking_uri(), tracking_uri())
    client.create_registered_model(name)
    client.create_model_version(name, f"s3://models/{name}")
    return f"models:/{name}/1"


def test_weights_that_cannot_be_had_are_not_called_another_kind(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = remote("kgt-far")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    monkeypatch.setenv("KGT_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"{address} is no KGT"):
        fetch(address)
    s3 = boto3.client("s3", endpoint_url=bucket, region_name="us-east-1")
    s3.put_object(Bucket="models", Key=f"kgt-far/{WEIGHTS_ARTIFACT}", Body=b"remote weights")
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=f"cannot download {address} from s3://models/kgt-far: .*cache"):
        fetch(address)
    (tmp_path / "cache").unlink()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=f"cannot download {address} from s3://models/kgt-far: Could not connect"):
        fetch(address)


@pytest.mark.parametrize("refuses", ["list", "file"])
def test_a_refused_download_is_one_line(refuses: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a proxy before the server, say, with a page of its own."""

    def answer(path: str) -> tuple[int, bytes]:
        if urlsplit(path).query and refuses == "file":
            return 200, b'{"files": [{"path": "weights.safetensors", "is_dir": false, "file_size": 3}]}'
        return 403, b"<html>\n<title>No</title>\n</html>\n"

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(answer) as url:
        location = f"{url}/api/2.0/mlflow-artifacts/artifacts/model"
        client = MlflowClient(tracking_uri(), tracking_uri())
        client.create_registered_model(f"kgt-{refuses}")
        client.create_model_version(f"kgt-{refuses}", location)
        with pytest.raises(
            UserError, match=f"cannot download models:/kgt-{refuses}/1 from {location}: .*403"
        ) as caught:
            fetch(f"models:/kgt-{refuses}/1")
    assert "\n" not in str(caught.value)


def test_what_follows_is_as_patient_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training, say, that began with `init=models:/…`."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    fetch("models:/kgt-denoise@champion")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_remote_weights_are_downloaded_once(bucket: str) -> None:
    s3 = boto3.client("s3", endpoint_url=bucket, region_name="us-east-1")
    address = remote("kgt-remote")
    s3.put_object(Bucket="models", Key=f"kgt-remote/{WEIGHTS_ARTIFACT}", Body=b"remote weights")
    first = fetch(address)
    assert first.read_bytes() == b"remote weights"
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    s3.delete_object(Bucket="models", Key=f"kgt-remote/{WEIGHTS_ARTIFACT}")
    assert fetch(address) == first
