"""Fixtures that more than one package's tests use."""

import os
import secrets
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from pipelines.storage import Store
    from tests.pipelines.faults import FaultProxy

ROOT = Path(__file__).resolve().parents[1]

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

hypothesis.settings.register_profile("kgt", deadline=None)  # timings decide no test
hypothesis.settings.load_profile("kgt")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def standard_images() -> Callable[[str], Path]:
    """Finds a folder of the standard image sets under `KGT_DATA`; skips the test, saying so, where it is absent."""

    def find(name: str) -> Path:
        base = Path(os.environ.get("KGT_DATA") or ROOT / ".." / "shared" / "data").resolve()
        if not (base / name).exists():
            pytest.skip(f"standard images absent: {base / name} (set KGT_DATA to the folder that holds {name}/)")
        return base / name

    return find


@pytest.fixture(autouse=True)
def kgt_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own embedded state and none of the caller's servers."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("KGT_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python code, with arguments, in a process and a folder of its own that has nothing of this environment."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


@pytest.fixture
def drawn_seed() -> int:
    """Another one at every run; pytest shows it where a test fails, and KGT_SEED=… repeats it."""
    seed = int(os.environ.get("KGT_SEED") or secrets.randbelow(2**32))
    print(f"KGT_SEED={seed}")
    return seed


@pytest.fixture
def rng() -> np.random.Generator:
    """Reproducible randomness for tests."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server over real HTTP."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    put, one_at_a_time = S3Response.put_object, threading.Lock()

    def put_object(response: S3Response) -> object:
        """S3 looks at a condition and writes in one step; moto does not."""
        with one_at_a_time:
            return put(response)

    S3Response.put_object = put_object
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    S3Response.put_object = put


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty bucket; the standard AWS variables point to its server."""
    with _reaching(AWS | {"AWS_ENDPOINT_URL": s3_endpoint}, monkeypatch):
        yield _empty_bucket()


@pytest.fixture(scope="session")
def proxied(s3_endpoint: str) -> "Iterator[tuple[FaultProxy, dict[str, str]]]":
    """A proxy in front of the S3 server that makes faults, and the variables that lead a process to it."""
    from tests.pipelines.faults import serving

    with serving(s3_endpoint) as proxy:
        yield proxy, AWS | {"AWS_ENDPOINT_URL": proxy.url}


@pytest.fixture
def proxy(proxied: "tuple[FaultProxy, dict[str, str]]", monkeypatch: pytest.MonkeyPatch) -> "Iterator[FaultProxy]":
    """The proxy, without a fault; this process goes through it, too."""
    proxy, variables = proxied
    proxy.clear()
    with _reaching(variables, monkeypatch):
        yield proxy
    proxy.clear()


@pytest.fixture
def bucket(proxy: "FaultProxy") -> "Store":
    """An empty store in a bucket behind the proxy."""
    from pipelines.storage import open_store

    return open_store(f"s3://{_empty_bucket()}/shards")


@contextmanager
def _reaching(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's S3 clients are those that the variables lead to."""
    from pipelines import s3_store

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3_store._client.cache_clear()
    yield
    s3_store._client.cache_clear()


def _empty_bucket() -> str:
    """The name of a new one."""
    import boto3

    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this test session's own, two cores wide, with the checkout on its workers' path."""
    import ray

    from pipelines import cluster

    cluster.connect(cores=2)
    yield
    ray.shutdown()
