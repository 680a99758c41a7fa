"""A simulated AWS account, in a process of its own: what this one's other tests keep in theirs stays as it is."""

import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.autoscaler._private.aws import config, utils

from tests.infra.account import Account
from tests.ports import free_port


@pytest.fixture(scope="session")
def aws_server() -> Iterator[Account]:
    """The account, for all tests of this folder."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host=127.0.0.1", f"--port={port}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    account = Account(f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + 60
    while True:
        try:
            account.reset()
            break
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "the simulated account does not start"
            time.sleep(0.2)
    yield account
    server.terminate()
    server.wait(30)


@pytest.fixture
def account(aws_server: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """An empty account, which this process's and its children's clients reach; this test's home is its own."""
    aws_server.reset()
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps there the SSH key that it makes
    (tmp_path / ".ssh").mkdir()
    for cache in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
        cache.cache_clear()
    return aws_server
