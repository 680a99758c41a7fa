"""What a job takes along: what git tracks, no more than fits, the same bytes for the same files."""

import io
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from infra import upload
from kgt.errors import UserError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a file of every kind that matters."""
    folder = tmp_path / "checkout"
    for name, text in {
        "kgt/model.py": "changed since",
        "infra/run.sh": "#!/bin/sh",
        "docs/picture.png": "large",
        "tests/test_model.py": "pass",
        ".gitignore": ".venv/\n*.tar",
        ".venv/secret": "not ours",
        "shards/a.tar": "data",
        "kgt/new.py": "not added yet",
        "token": "of somebody",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "infra/run.sh").chmod(0o755)
    git(folder, "init", "-q")
    git(folder, "add", "kgt/model.py", "infra", "docs", "tests", ".gitignore")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    return folder


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", "-C", folder, *command], check=True, capture_output=True)


def members(package: bytes) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {member.filename: member for member in archive.infolist()}


def test_it_is_what_git_tracks(checkout: Path) -> None:
    found = members(upload.pack(checkout))
    assert set(found) == {".gitignore", "infra/run.sh", "kgt/model.py"}
    assert found["infra/run.sh"].external_attr >> 16 == 0o755
    assert upload.untracked_sources(checkout) == ["kgt/new.py"]


def test_who_may_only_read_the_checkout_submits_from_it_too(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = upload.pack(checkout)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert upload.pack(checkout) == package


def test_the_same_files_are_the_same_bytes(checkout: Path) -> None:
    first, commit = upload.pack(checkout), upload.git_commit(checkout)
    os.utime(checkout / "kgt/model.py", (1, 1))
    assert upload.pack(checkout) == first
    (checkout / "kgt/model.py").write_text("another")
    assert upload.pack(checkout) != first
    assert upload.git_commit(checkout) == f"{commit}-dirty"


def test_what_is_too_large_is_named(checkout: Path) -> None:
    (checkout / "kgt/weights.bin").write_bytes(os.urandom(upload.LIMIT))
    upload.pack(checkout)
    git(checkout, "add", "kgt/weights.bin")
    with pytest.raises(UserError, match=r"5\.0 MB are allowed; the largest files: kgt/weights\.bin \(5\.0 MB\)"):
        upload.pack(checkout)


def test_this_project_s_is_small(root: Path) -> None:
    package = upload.pack(root)
    assert {"kgt/tasks.py", "pipelines/synthesize.py", "training/run.py", "pyproject.toml"} <= members(package).keys()
    assert len(package) < upload.LIMIT / 5


def test_elsewhere_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no git checkout, .*upload=false"):
        upload.pack(tmp_path)
