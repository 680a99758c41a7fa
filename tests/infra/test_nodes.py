"""Several Ray nodes on one machine: each role's work stays on its nodes, and a node that is lost changes no result."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines import cluster
from tests.infra.manifests import called

NODES = """
import sys
import ray
from ray.cluster_utils import Cluster
from pipelines import cluster

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
ray.init(address=nodes.address, logging_level="ERROR")  # on the head: later any node of this address would do
of = {role: nodes.add_node(num_cpus=2, labels={cluster.ROLE: role}) for role in ("pipelines", "training")}

def role():
    return ray.get_runtime_context().get_node_labels().get(cluster.ROLE)
"""

PLACES = """
made = [row["role"] for row in cluster.each_row(lambda row: {"role": role()}, [{}] * 8, cpus=1, alone=True)]
assert set(made) == {"pipelines"}, made
trained = ray.remote(role).options(num_cpus=1, label_selector=cluster.not_for("pipelines"))
assert set(ray.get([trained.remote() for _ in range(8)])) == {"training"}
both = ray.remote(role).options(num_cpus=1)
assert [cluster.resources_not_for(role)["CPU"] for role in ("pipelines", "training", "none")] == [2, 2, 4]
assert None not in ray.get([both.remote() for _ in range(8)])  # the head takes no work
ray.shutdown()
nodes.shutdown()
ray.init(address="local", num_cpus=2, logging_level="ERROR")
assert ray.get(trained.remote()) is None  # one machine has no roles, and does everything
assert [row["role"] for row in cluster.each_row(lambda row: {"role": role()}, [{}], cpus=1)] == [None]
"""

LOST = """
import pathlib, random, threading, time
from ray._private.state import available_resources_per_node
from pipelines import synthesize

store, seed = pathlib.Path(sys.argv[1]), sys.argv[2]
rng, victim = random.Random(seed), of["pipelines"]

def at_work():
    "How many of the victim's two cores tasks hold, as Ray knows it."
    return 2 - int(available_resources_per_node()[victim.node_id].get("CPU", 0))

def lose():
    shards = rng.randrange(10)
    while len(list(store.glob("deblur/pool/*.tar"))) < shards:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))
    while not (cores := at_work()):
        time.sleep(0.02)
    nodes.remove_node(victim, allow_graceful=False)
    print(f"lost with {cores} cores at work, after {shards} shards", flush=True)

if seed:
    threading.Thread(target=lose, daemon=True).start()
nodes.add_node(num_cpus=2, labels={cluster.ROLE: "pipelines"})
status = synthesize.main(["task=deblur", "limit=8", "crop=128", "crops=24", "shards_min=16", f"store=file://{store}"])
ray.shutdown()
nodes.shutdown()
sys.exit(status)
"""

Script = Callable[..., subprocess.CompletedProcess[str]]


def test_each_role_s_work_is_on_its_nodes(run_script: Script) -> None:
    done = run_script(NODES + PLACES)
    assert done.returncode == 0, done.stderr


def test_clusters_name_the_roles(root: Path) -> None:
    kubernetes = called("RayCluster", "kgt")["spec"]["workerGroupSpecs"]
    assert {group["groupName"]: group["labels"][cluster.ROLE] for group in kubernetes} == ROLES
    aws = yaml.safe_load((root / "ray_cluster.yaml").read_text())["available_node_types"]
    assert {name: kind["labels"][cluster.ROLE] for name, kind in aws.items() if name != "head"} == ROLES


ROLES = {"pipelines": "pipelines", "training": "training"}


@pytest.mark.slow
def test_a_lost_node_changes_no_byte(run_script: Script, tmp_path: Path, drawn_seed: int) -> None:
    """Twice at a random moment, while there is work on it, and not at all."""
    made = []
    for turn, seed in enumerate(("", f"{drawn_seed}/1", f"{drawn_seed}/2")):
        store = tmp_path / str(turn)
        done = run_script(NODES + LOST, str(store), seed)
        print(done.stdout)
        assert done.returncode == 0, done.stderr
        assert bool(re.search(r"^lost with [12] cores at work", done.stdout, re.M)) == bool(seed)
        made.append({path.name: path.read_bytes() for path in store.glob("deblur/pool/*.tar")})
    assert len(made[0]) >= 16
    assert made[0] == made[1] == made[2]
