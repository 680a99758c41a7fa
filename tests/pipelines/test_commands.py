"""The commands as people and machines run them: killed, twice at once, on S3, from any folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import synthesize
from pipelines.storage import open_store
from tests.pipelines.runs import contents

SETTINGS = ["crop=64", "crops=8", "shards_min=12"]


def start(root: Path, *argv: str, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, str(root / "pipelines" / argv[0]), *argv[1:]]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("ray_local")
def test_after_a_kill_the_same_command_ends_in_the_same_bytes(root: Path, photos: Path, tmp_path: Path) -> None:
    asked = [f"source={photos}", "task=[deblur,weather]", *SETTINGS]
    whole, killed = (open_store(f"file://{tmp_path}/{name}") for name in ("whole", "killed"))
    assert synthesize.main([*asked, f"store={whole.url}"]) == 0

    process = start(root, "synthesize.py", *asked, f"store={killed.url}", cwd=tmp_path)
    try:
        while len([key for key in killed.list("deblur/pool/") if key.endswith(".json")]) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not any("/versions/" in key or "CURRENT" in key for key in killed.list(""))
    written = {}
    deadline = time.monotonic() + 30
    while written != (written := {key: killed.head(key) for key in killed.list("")}):  # its workers end soon after it
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert len(written) < len(list(whole.list("")))

    assert synthesize.main([*asked, f"store={killed.url}"]) == 0
    assert contents(killed) == contents(whole)
    records = [key for key in written if key.endswith(".json")]
    assert len(records) >= 3
    assert all(killed.head(key) == written[key] for key in records), "what was complete is not made again"


def test_two_runs_at_once_on_s3_make_one_version(root: Path, photos: Path, tmp_path: Path, s3_bucket: str) -> None:
    at = f"store=s3://{s3_bucket}/my/shards"
    asked = [f"source={photos}", "task=[jpeg,sr]", at, *SETTINGS]
    runs = [start(root, "synthesize.py", *asked, cwd=tmp_path) for _ in range(2)]
    for run in runs:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors
    store = open_store(f"s3://{s3_bucket}/my/shards")
    assert list(store.list("jpeg/versions/")) == ["jpeg/versions/v000001.json"]
    assert json.loads(store.get("sr/CURRENT"))["version"] == "v000001"
    verified, errors = start(root, "datasets.py", "verify", at, cwd=tmp_path).communicate(timeout=240)
    assert verified == "26 shards of 2 tasks are as published\n", errors


def test_mistakes_are_one_line_and_exit_code_2(root: Path, tmp_path: Path) -> None:
    ended = start(root, "synthesize.py", "task=denoize", cwd=tmp_path)
    answer, errors = ended.communicate(timeout=120)
    assert (ended.returncode, answer) == (2, "")
    assert errors == "error: unknown task 'denoize': did you mean 'denoise'?\n"
    assert os.listdir(tmp_path) == []
