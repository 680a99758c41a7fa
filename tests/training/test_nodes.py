"""A run on several Ray nodes of one machine: its work is on training nodes, and one that is lost changes no result."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.test_cluster_job import wait_for
from tests.ports import free_port
from tests.training.test_resume import Run

NODES = """
import json, pathlib, random, sys, threading, time
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks
from pipelines import cluster
from training.run import main

port, answer, given, *settings = sys.argv[1:]
out = pathlib.Path(next(word for word in settings if word.startswith("out="))[len("out="):])
head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": int(port)}
# Nodes that end with the process would have to be added on its main thread.
nodes = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
ray.init(address=nodes.address, logging_level="ERROR")  # on the head: later any node of this address would do

def add(role, wait=True):
    return nodes.add_node(wait, num_cpus=1 if role == "training" else 4, labels={cluster.ROLE: role})

def wait_for(pattern):
    while not list(out.glob(pattern)):
        time.sleep(0.02)

def places():
    "Where each kind of task has run: the roles of its nodes, None for the head's."
    role_of = {node["NodeID"]: node["Labels"].get(cluster.ROLE) for node in ray.nodes()}
    found = {}
    for task in list_tasks(limit=10_000):
        if task.node_id:
            found.setdefault(task.name, []).append(role_of[task.node_id])
    return found

def train():
    try:
        return main(settings)
    finally:
        pathlib.Path(answer).write_text(json.dumps(places()))
        ray.shutdown()
        nodes.shutdown()
"""

LATE = (
    NODES
    + """
def grow():
    wait_for("denoise/run.json")
    time.sleep(2)
    assert not list(out.glob("denoise/weights.safetensors")), "trained where there was no training node"
    for _ in range(int(given)):
        add("training", wait=False)

add("pipelines")
threading.Thread(target=grow, daemon=True).start()
sys.exit(train())
"""
)

LOST = (
    NODES
    + """
rng = random.Random(given)

def at_work(node):
    "Whether Ray says that a worker is alive there: it is, from before the first step to the end of the last."
    alive = list_actors(filters=[("node_id", "=", node.node_id), ("state", "=", "ALIVE")])
    return "RayTrainWorker" in [actor.class_name for actor in alive]

def lose():
    victim, checkpoint = rng.choice(training), rng.choice([0, 7, 14, 21, 28])
    while not at_work(victim):
        time.sleep(0.2)
    if checkpoint:
        wait_for(f"denoise/checkpoints/{checkpoint:08d}/COMMITTED.json")
    time.sleep(rng.uniform(0, 0.5 if checkpoint else 3))
    working = at_work(victim)
    nodes.remove_node(victim, allow_graceful=False)
    print(f"lost after the checkpoint of step {checkpoint}, with a worker: {working}", flush=True)
    time.sleep(rng.uniform(0, 2))
    add("training")

add("pipelines")
training = [add("training"), add("training")]
threading.Thread(target=lose, daemon=True).start()
sys.exit(train())
"""
)


@pytest.fixture
def run(root: Path, denoise_store: str, tmp_path: Path, empty_mlflow_database: Path) -> Run:
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow_database.read_bytes())
    return Run(root, denoise_store, tmp_path)


LONG = 40
"""Steps: so many that a node that is lost soon after the checkpoint of step 28 is lost while there is work on it."""


@pytest.fixture(scope="module")
def calm(root: Path, denoise_store: str, tmp_path_factory: pytest.TempPathFactory, empty_mlflow_database: Path) -> Run:
    """The same on one machine, calm."""
    folder = tmp_path_factory.mktemp("calm")
    (folder / "mlflow.db").write_bytes(empty_mlflow_database.read_bytes())
    run = Run(root, denoise_store, folder)
    ended = run.command("workers=2", f"steps={LONG}")
    assert ended.returncode == 0, ended.stderr
    return run


@pytest.fixture
def tracked(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server on the run's database, as several nodes need one."""
    port = free_port()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", f"--backend-store-uri=sqlite:///{run.folder}/mlflow.db"),
            *(f"--artifacts-destination={run.folder}/artifacts", f"--port={port}", "--workers=1"),
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(port, seconds=300)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # with its own server processes
        server.wait()


@pytest.mark.usefixtures("tracked")
def test_workers_and_what_comes_after_are_on_training_nodes(run: Run) -> None:
    """Of a cluster that has room elsewhere, and gets training nodes when the run waits for them."""
    check_places(run, run.command("workers=2", "steps=2", script=["-c", LATE, *arguments(run, "2")]))


@pytest.mark.slow
@pytest.mark.usefixtures("tracked")
def test_an_elastic_run_takes_the_training_nodes_alone_for_room(run: Run) -> None:
    """One, which has room for one worker; the other nodes would have it for four."""
    asked = run.command("workers=2", "min_workers=1", "steps=2", script=["-c", LATE, *arguments(run, "1")])
    places = check_places(run, asked)
    assert places["RayTrainWorker.run_train_fn"] == ["training"]


@pytest.mark.slow
@pytest.mark.usefixtures("tracked")
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_lost_training_node_changes_no_bit(run: Run, calm: Run, drawn_seed: int, turn: int) -> None:
    """One of two, each with one of the two workers, at a random moment; another takes its place."""
    done = run.command("workers=2", f"steps={LONG}", script=["-c", LOST, *arguments(run, f"{drawn_seed}/{turn}")])
    print(done.stdout)
    check_places(run, done)
    assert "with a worker: True" in done.stdout, done.stderr
    assert "workers lost" in done.stderr or "of step 0," in done.stdout, "it is told once they have begun"
    for metric in ("loss", "k", "lr"):
        assert run.history(metric) == calm.history(metric)
    assert [step for step, _ in run.history("loss")] == list(range(1, LONG + 1))
    assert run.weights() == calm.weights()


def arguments(run: Run, given: str) -> list[str]:
    """What the scripts want before the settings. given: how many nodes come late, or what decides which is lost."""
    return [str(free_port()), str(run.folder / "places.json"), given]


def check_places(run: Run, done: subprocess.CompletedProcess[str]) -> dict[str, list[str | None]]:
    """The run has ended well, and each kind of task has run on nodes of the role that is right for it."""
    assert done.returncode == 0, done.stderr
    places = json.loads((run.folder / "places.json").read_text())
    assert set(places["RayTrainWorker.run_train_fn"] + places["finish"]) == {"training"}
    assert places["fit"] == [None]  # on the driver's node, the head
    # Every node is asked whether it sees the run's folder.
    assert [name for name, roles in places.items() if "pipelines" in roles] == ["exists"]
    return places
