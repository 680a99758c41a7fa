"""MLflow: the embedded store, metrics, the registry, and a model that can be used from it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Experiment

from kgt.config import preset
from kgt.errors import UserError
from kgt.home import home, tracking_uri
from kgt.model import KGT
from kgt.registry import fetch
from kgt.weights import load_weights, save_weights
from tests.training.mlflow_server import Server
from training import origin, tracking
from training.mlflow_client import our_uri

pytestmark = pytest.mark.usefixtures("mlflow_database")


def register(folder: Path, task: str, run: str) -> str:
    weights = folder / "weights.safetensors"
    save_weights(KGT(preset("kgt-tiny", task)), weights, metadata={"task": task})
    return tracking.register(task, run, weights, tags={"dataset": f"{task}/v000001"}, card="# A card")


def test_the_embedded_store_is_under_the_home(kgt_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tracking.start_run("parent")
    note = kgt_home / "note.txt"
    note.write_text("x")
    tracking.log_artifact(run, note)
    assert (kgt_home / "mlflow.db").exists()
    assert list((kgt_home / "artifacts").rglob("note.txt"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["", "sqlite:///{folder}/other.db"])
def test_no_embedded_store_writes_to_the_working_directory(
    uri: str, kgt_home: Path, empty_mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_mlflow_database, kgt_home / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=kgt_home))
    monkeypatch.setenv("KGT_HOME", str(kgt_home / "a #1 home")) if uri else None
    monkeypatch.chdir(tmp_path)
    run = tracking.start_run("parent")
    (kgt_home / "note.txt").write_text("x")
    tracking.log_artifact(run, kgt_home / "note.txt")
    assert list((home() / "artifacts").rglob("note.txt"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("before", [None, "", "sqlite:////some/where.db"])
def test_the_environment_is_as_before(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
    with our_uri():
        assert os.environ["MLFLOW_TRACKING_URI"] == tracking_uri() != ""
    assert os.environ.get("MLFLOW_TRACKING_URI") == before


def test_weights_of_another_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is named weights\.safetensors"):
        tracking.register("sr", "0" * 32, tmp_path / "best.safetensors", tags={}, card="")


def test_code_outside_a_checkout_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KGT_GIT_COMMIT", raising=False)
    monkeypatch.setattr(origin, "ROOT", tmp_path)
    names = set()
    for file, text in [("kgt/a.py", ""), ("kgt/a.py", "b"), ("training/recipes/sr.yaml", "lr: 1"), ("tests/a.py", "c")]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
        names.add(origin.git_commit())
    assert len(names) == 3  # the tests are not what is run
    assert all(re.fullmatch("source-[0-9a-f]{16}", name) for name in names)
    monkeypatch.setenv("KGT_GIT_COMMIT", "1" * 40)
    assert origin.git_commit() == "1" * 40


def test_a_checkout_says_whether_a_commit_names_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", tmp_path, *who, *command], check=True, capture_output=True)

    def write(name: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("changed")
        return origin.git_commit()

    monkeypatch.setattr(origin, "ROOT", tmp_path)
    git("init")
    (tmp_path / "kgt").mkdir()
    (tmp_path / "kgt" / "a.py").write_text("a")
    (tmp_path / ".gitignore").write_text("ignored.py")
    git("add", ".")
    git("commit", "-m", "first")
    commit = origin.git_commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as a service that may only read it
        assert origin.git_commit() == commit
    assert write("notes.py") == write("kgt/notes.txt") == write("training/ignored.py") == commit
    assert write("training/ü.py") == f"{commit}-dirty"
    (tmp_path / "training" / "ü.py").unlink()
    assert write("kgt/a.py") == f"{commit}-dirty"


def test_a_deleted_experiment_is_one_line_with_the_way_out() -> None:
    experiment = tracking.open_tracking()
    client = mlflow.MlflowClient(tracking_uri())
    client.delete_experiment(experiment)
    with pytest.raises(UserError, match=rf"was deleted.* mlflow experiments restore -x {experiment}$"):
        tracking.open_tracking()
    client.restore_experiment(experiment)
    assert tracking.open_tracking() == experiment


_AT_ONCE = """
import os
from training import tracking

children = []
for _ in range(3):
    if not (child := os.fork()):
        os.write(1, (tracking.open_tracking() + "\\n").encode())
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def test_commands_that_are_the_first_ones_at_once_find_one_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGT_HOME", str(tmp_path / "new"))
    ended = subprocess.run([sys.executable, "-c", _AT_ONCE], cwd=tracking.ROOT, capture_output=True, text=True)
    assert ended.stdout.split() == ["1", "1", "1"], ended.stderr


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KGT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(UserError, match=r"cannot write MLflow's database .*/mlflow\.db .*: let KGT_HOME, or"):
        tracking.open_tracking()


def test_who_comes_second_takes_the_experiment_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tracking.open_tracking()
    client = tracking.store_client()
    look, looks = client.get_experiment_by_name, []

    def before_the_first_made_it(name: str) -> Experiment | None:
        looks.append(name)
        return look(name) if len(looks) > 1 else None

    monkeypatch.setattr(client, "get_experiment_by_name", before_the_first_made_it, raising=False)
    assert tracking.open_tracking() == first


def test_children_know_their_parent_and_runs_are_taken_up_again() -> None:
    parent = tracking.start_run("parent", tags={"a": "b"})
    child = tracking.start_run("child", parent=parent)
    assert tracking.run_data(child)[2]["mlflow.parentRunId"] == parent
    tracking.end_run(child, "FAILED")
    assert tracking.start_run("child", resume=child) == child
    assert tracking.start_run("child", resume="0" * 32) != "0" * 32
    tracking.log_params(child, {"lr": 1})
    tracking.log_params(child, {"lr": 2, "steps": 3})
    assert tracking.run_data(child)[0] == {"lr": "1", "steps": "3"}


def test_a_registered_version_is_a_model_of_images(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracking.start_run("run")
    assert register(tmp_path, "denoise", run) == "1"
    assert register(tmp_path, "denoise", run) == "2"
    tracking.set_alias("denoise", "challenger", "2")
    version = tracking.get_alias("denoise", "challenger")
    assert (str(version.version), version.tags["dataset"], version.description) == ("2", "denoise/v000001", "# A card")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    served = mlflow.pyfunc.load_model("models:/kgt-denoise@challenger")
    images = rng.integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(served.predict(images), images)  # an untrained model returns its input


def test_the_library_fetches_the_weights_of_a_registered_version(tmp_path: Path) -> None:
    register(tmp_path, "demosaic", tracking.start_run("run"))
    tracking.set_alias("demosaic", "challenger", "1")
    _, metadata = load_weights(fetch("models:/kgt-demosaic@challenger"))
    assert metadata["task"] == "demosaic"


def test_an_alias_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert tracking.get_alias("sr", "champion") is None
    register(tmp_path, "jpeg", tracking.start_run("run"))
    assert tracking.get_alias("jpeg", "champion") is None


def test_a_server_that_refuses_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer .*unset MLFLOW_TRACKING_URI"):
        tracking.open_tracking()


def test_a_database_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    for driver, words in (("psycopg", "fails: "), ("pg8000", "needs what is not installed: ")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+{driver}://mlflow@127.0.0.1:9/mlflow")
        with pytest.raises(UserError, match=words) as caught:
            tracking.open_tracking()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_server_that_refuses_or_died_is_one_line_for_every_call(server: Server, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    save_weights(KGT(preset("kgt-tiny", "jpeg")), tmp_path / "weights.safetensors", metadata={"task": "jpeg"})
    server.refusing = True
    for _ in range(2):
        for call in (
            tracking.open_tracking,
            lambda: tracking.get_alias("jpeg", "champion"),
            lambda: tracking.set_alias("jpeg", "champion", "1"),
            lambda: tracking.set_version_tags("jpeg", "1", {"a": "b"}),
            lambda: tracking.log_artifact("0" * 32, tmp_path / "note.txt"),
            lambda: tracking.register("jpeg", "0" * 32, tmp_path / "weights.safetensors", tags={}, card=""),
        ):
            with pytest.raises(
                UserError, match=f"MLflow at {server.url} (fails|does not answer|does not allow)"
            ) as caught:
                call()
            assert "\n" not in str(caught.value)
        server.die()
