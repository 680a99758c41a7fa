"""State that only one machine sees is refused on a cluster of several."""

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import requests

from kgt.errors import UserError
from pipelines import cluster, patience
from pipelines.storage import Unavailable

# Its own process: a cluster of two nodes cannot be joined by one that has a Ray of its own.
TWO_NODES = """
import os, sys, tempfile
from ray.cluster_utils import Cluster
import ray
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
nodes.add_node(num_cpus=1)
ray.init(address=nodes.address)
from kgt.errors import UserError
from pipelines import cluster
shared = tempfile.mkdtemp()
os.dup2(os.open(tempfile.mkdtemp(), os.O_RDONLY), 900)
cluster.refuse_local_state(f"file://{shared}/store")
cluster.refuse_local_state("s3://bucket/x")
assert os.listdir(f"{shared}/store") == []
for url in sys.argv[1:]:
    try:
        cluster.refuse_local_state(url)
    except UserError as error:
        print(error)
    else:
        print("nothing wrong with", url)
ray.shutdown()
nodes.shutdown()
"""


def double(row: dict) -> dict:
    if row["number"] < 0:
        raise UserError("a negative number")
    return {"number": 2 * row["number"], "left out": None}


@pytest.mark.usefixtures("ray_local")
def test_the_ray_that_a_command_starts_takes_no_job_without_its_token() -> None:
    jobs = f"http://{ray._private.worker.get_dashboard_url()}/api/jobs/"
    assert requests.get(jobs, timeout=120).status_code == 401


@pytest.mark.usefixtures("ray_local")
def test_rows() -> None:
    rows = [{"number": number} for number in range(20)]
    for alone in (False, True):
        results = list(cluster.each_row(double, rows, cpus=1, alone=alone))
        assert sorted(result["number"] for result in results) == list(range(0, 40, 2))


@pytest.mark.usefixtures("ray_local")
def test_a_user_s_mistake_in_a_task_arrives_as_it_is() -> None:
    with pytest.raises(UserError, match=r"^a negative number$"):
        list(cluster.each_row(double, [{"number": -1}], cpus=1))


@pytest.mark.parametrize(("outages", "rounds"), [(2, 3), (9, 4)])
def test_a_store_that_does_not_answer_is_asked_again_a_few_times(
    outages: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def ask(row: dict) -> dict:
        calls.append(row)
        if len(calls) <= outages:
            raise Unavailable("no answer")
        return row

    monkeypatch.setattr(patience, "PAUSES", (0.0,) * 3)
    answer = pickle.loads(cluster._Packed(ask)({"row": pickle.dumps({"number": 1})})["row"])
    assert len(calls) == rounds
    assert answer == {"number": 1} if outages < rounds else isinstance(answer, Unavailable)


def test_a_folder_that_cannot_be_made_is_the_user_s_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(cluster, "nodes", lambda: ["one", "other"])
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        cluster.refuse_local_state(f"file://{tmp_path}/file/store")


@pytest.mark.usefixtures("ray_local")
def test_on_one_node_all_state_is_shared() -> None:
    cluster.refuse_local_state("sqlite:////x/mlflow.db")
    cluster.refuse_local_state("file:///no/such/folder")
    assert not Path("/no/such/folder").exists()


def test_two_nodes_refuse_what_one_of_them_does_not_see(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # A path through its own open files is the one that a process does not share with the nodes of its machine.
    asked = ["sqlite:////x/mlflow.db", "file:///proc/self/fd/900/store"]
    done = run_script(TWO_NODES, *asked)
    assert done.returncode == 0, done.stderr
    database, folder = done.stdout.splitlines()
    assert "has 2 nodes: start `mlflow server`" in database
    assert "not shared by the cluster" in folder
    assert "s3://bucket/folder" in folder
