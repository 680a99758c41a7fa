"""The same commands on a cluster: `ray start --head`, then `ray job submit --working-dir . -- python …`."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kgt.tasks import TASKS
from tests.ports import free_port

BIN = Path(sys.executable).parent
BROKEN = "sr"


@pytest.mark.slow  # minutes: six trainings, one after another
def test_all_tasks_as_a_submitted_job(root: Path, kgt_home: Path) -> None:
    """Synthesis, then training of six tasks, the shards of one damaged: it fails, five are registered."""
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "KGT_HOME": str(kgt_home),
    }
    with cluster(environment) as address:
        made = submit(
            root,
            address,
            environment,
            "pipelines/synthesize.py",
            "task=all",
            "limit=6",
            "crop=96",
            "crops=2",
            "shards_min=2",
        )
        assert made.returncode == 0, made.stdout
        for shard in (kgt_home / "shards" / BROKEN / "pool").glob("train-*.tar"):
            shard.write_bytes(b"not the shard that was published")
        trained = submit(
            root, address, environment, "training/run.py", "task=all", "steps=2", "batch_size=2", "patch=32", "name=job"
        )
    assert trained.returncode != 0, trained.stdout
    results = {path.parent.name: json.loads(path.read_text()) for path in (kgt_home / "runs/job").glob("*/result.json")}
    assert sorted(results) == sorted(set(TASKS) - {BROKEN}), trained.stdout
    assert all(result["model"] == f"kgt-{task}" for task, result in results.items())
    assert "has 32 bytes, not" in trained.stdout


def submit(root: Path, address: str, environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Submit, follow and return the ended job; its exit status is the job's.

    A dashboard that answers may have no agent yet that takes jobs: Ray then says so, and to try again.
    """
    job = [BIN / "ray", "job", "submit", f"--address={address}", "--working-dir=.", "--", "python", *command]
    deadline = time.monotonic() + 120
    while True:
        ended = subprocess.run(
            job,
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
        if "No available agent to submit job" not in ended.stdout or time.monotonic() > deadline:
            return ended
        time.sleep(2)


@contextlib.contextmanager
def cluster(environment: dict[str, str], *options: str, port: int | None = None) -> Iterator[str]:
    """A head node of two CPUs on loopback, with token authentication. Yields the address that jobs are submitted to.

    options: further ones of `ray start`. port: where it answers other nodes; None: any.
    """
    dashboard = free_port()
    # Not below pytest's folder: the paths of Unix sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
                *("--node-ip-address=127.0.0.1", f"--port={port or free_port()}", f"--dashboard-port={dashboard}"),
                # Its default port is taken where another Ray runs, and then no job is.
                *(f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}"),
                *options,
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(dashboard)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            # SIGTERM drains the node for half a minute first; what a shell started in its background ignores SIGINT.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            head.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
            head.wait(120)


def wait_for(port: int, seconds: float = 120) -> None:
    """Until something listens on the port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    pytest.fail(f"nothing listens on port {port} after {seconds:.0f} s")
