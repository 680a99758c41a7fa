"""Fixtures of the pipelines' tests: an S3 server over real HTTP, stores of both kinds, a folder of photographs."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from pipelines import s3_store
from pipelines.sample import sample_photographs
from pipelines.storage import Store, open_store
from tests.pipelines.faults import FaultProxy, serving

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty bucket; the standard AWS variables point to its server."""
    for name, value in (AWS | {"AWS_ENDPOINT_URL": s3_endpoint}).items():
        monkeypatch.setenv(name, value)
    s3_store._client.cache_clear()
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield name
    s3_store._client.cache_clear()


@pytest.fixture(scope="session")
def proxied(s3_endpoint: str) -> Iterator[tuple[FaultProxy, dict[str, str]]]:
    """A proxy in front of the S3 server that makes faults, and the variables that lead a process to it."""
    with serving(s3_endpoint) as proxy:
        yield proxy, AWS | {"AWS_ENDPOINT_URL": proxy.url}


@pytest.fixture
def proxy(proxied: tuple[FaultProxy, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy, without a fault; this process goes through it, too."""
    proxy, variables = proxied
    proxy.clear()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3_store._client.cache_clear()
    yield proxy
    proxy.clear()
    s3_store._client.cache_clear()


@pytest.fixture
def bucket(proxy: FaultProxy) -> Store:
    """An empty store in a bucket behind the proxy."""
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return open_store(f"s3://{name}/shards")


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "file":
        return open_store(f"file://{tmp_path}/a store")
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/shards")


@pytest.fixture
def file_store(tmp_path: Path) -> Store:
    """An empty folder as a store."""
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a space in its name and six small photographs, one of them gray and one in a folder of its own."""
    folder = tmp_path / "my photos"
    (folder / "more").mkdir(parents=True)
    for number, path in enumerate(sample_photographs("train")[:6]):
        with Image.open(path) as image:
            place = folder / "more" if number == 5 else folder
            image.crop((40, 40, 136, 120 + number)).save(place / f"photo {number}.png")
    return folder
