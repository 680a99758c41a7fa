"""From a command to its first result on a cluster: to a training step, and from an empty cluster to a shard.

    python tests/benchmarks/submission.py

Every turn starts a Ray head of its own here, with token authentication. `training`: `infra/submit.py` of
`training/run.py` (kgt-tiny, one worker), as that head's first job and as its next, which uploads nothing. `shards`:
`infra/submit.py` of `pipelines/synthesize.py` to a head that takes no work, whose autoscaler starts the one node there
is; that node is a process here, so the boot of an instance comes on top. Times are the cluster's own records, each part
from the end of the one before; imports and packing, which are parts of `submit`, are timed apart.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    # Ray reads both while it is imported.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_cluster_events, list_nodes, list_tasks

from infra.upload import pack
from tests.benchmarks.harness import Timing, arguments, measure, print_table, start, store, timing
from tests.infra.test_cluster_job import BIN, cluster
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("training", "shards")
IMAGES = 4

_COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
)
"""What Ray wants to be said of every cluster, and this one has none of."""

Moments = dict[str, float]
"""Seconds of the clock at which each part was over, in their order; the first is when the command was given."""


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    found: dict[str, list[Moments]] = {}
    client = [of_submit(given.runs)]
    with tempfile.TemporaryDirectory(prefix="kgt-benchmark-") as name:
        for turn in range(given.runs):
            for part in given.parts:
                folder = Path(name) / f"{part}-{turn}"
                folder.mkdir()
                for job, moments in (_training if part == "training" else _shards)(folder):
                    found.setdefault(job, []).append(moments)
            rows = [{"job": job, **split(moments)} for job, moments in found.items()]
            store("submission", rows, path=given.json, packages=("ray", "torch", "mlflow"), more={"submit": client})
    print_table("From `infra/submit.py` to the first result", rows)
    print_table("Of `submit`", client)


def split(moments: Sequence[Moments]) -> dict[str, Timing]:
    """How long each part took, and all of them."""
    first, *rest = moments[0]
    row = {}
    for before, name in zip((first, *rest), rest, strict=False):
        row[name] = timing([moment[name] - moment[before] for moment in moments])
    return row | {"whole": timing([moment[rest[-1]] - moment[first] for moment in moments])}


def of_submit(runs: int) -> dict[str, Any]:
    """What `submit` holds that needs no cluster, and how much is sent."""

    def imports() -> None:
        subprocess.run([sys.executable, "-c", "import infra.submit, infra.job_server"], cwd=ROOT, check=True)

    package = pack(ROOT)
    return {
        "imports": measure(imports, runs=runs, warmup=1),
        "packing": measure(lambda: pack(ROOT), runs=runs, warmup=0),
        "upload, MiB": len(package) / 2**20,
    }


def _training(folder: Path) -> Iterator[tuple[str, Moments]]:
    """The rows of one turn."""
    shards = f"store=file://{folder}/shards"
    made = ["task=sr", "tasks.sr.scale=2", "limit=2", "crop=96", "crops=4", "shards_min=2", shards]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(ROOT / "pipelines" / "synthesize.py"), *made]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    with cluster(_environment(folder)) as address:
        _submit(address, "ready", "true", upload=False)
        for name in ("first", "next"):
            out = folder / name
            asked = [
                "task=sr",
                "model=kgt-tiny",
                "workers=1",
                "steps=1",
                "batch_size=2",
                "patch=32",
                "validation_pairs=1",
            ]
            command = [*_noted(folder / f"{name}.driver"), "training/run.py", *asked, shards, f"out={out}"]
            begun = _submit(address, name, *command)
            job, driver = _job(address, folder, name)
            tasks = [task for task in list_tasks(address, detail=True, limit=10_000) if task.job_id == job.job_id]
            (fit,) = (task for task in tasks if task.name == "fit")
            workers = [task.start_time_ms for task in tasks if task.name == "RayTrainWorker.run_train_fn"]
            (first,) = out.glob("sr/metrics/*")
            yield (
                name,
                {
                    "given": begun,
                    "submit": job.start_time / 1000,
                    "driver": driver,
                    "checks": fit.creation_time_ms / 1000,
                    "workers up": max(workers) / 1000,
                    "first step": first.stat().st_mtime,
                },
            )


def _shards(folder: Path) -> Iterator[tuple[str, Moments]]:
    """The row of one turn."""
    shards = folder / "shards"
    asked = ["task=denoise", f"limit={IMAGES}", "crop=96", "crops=4", "shards_min=4", f"store=file://{shards}"]
    with _empty(folder) as address:
        _submit(address, "ready", "true", upload=False)
        begun = _submit(address, "shards", *_noted(folder / "shards.driver"), "pipelines/synthesize.py", *asked)
        job, driver = _job(address, folder, "shards")
        (node,) = (node for node in list_nodes(address, detail=True) if not node.is_head_node)
        events = {event.message: event.time for event in list_cluster_events(address)}
        asked_at = datetime.fromisoformat(events["Adding 1 node(s) of type pipelines."]).timestamp()  # whole seconds
        rows = [task for task in list_tasks(address, detail=True, limit=10_000) if task.name == "Map(_Packed)"]
        checked = min(task.creation_time_ms for task in rows) / 1000
        ended = sorted(task.end_time_ms for task in rows)
        yield (
            "empty cluster",
            {
                "given": begun,
                "submit": job.start_time / 1000,
                "driver": driver,
                "checks": checked,
                "node asked for": max(checked, asked_at),
                "node up": node.start_time_ms / 1000,
                "survey": ended[IMAGES - 1] / 1000,  # of so few images, each is a task
                "first shard": min(path.stat().st_mtime for path in shards.glob("denoise/pool/*.tar")),
            },
        )


@contextmanager
def _empty(folder: Path) -> Iterator[str]:
    """A head that takes no work and can have one node of two cores for pipelines, but has none."""
    port = free_port()
    provider = {
        # By its module: the files that its own name would bring along are not in Ray's wheel.
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{port}",
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    group = {"resources": {"CPU": 2}, "labels": {"kgt-role": "pipelines"}, "node_config": {}, "max_workers": 1}
    config = {setting: [] for setting in _COMMANDS} | {
        "cluster_name": "empty",
        "max_workers": 1,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "pipelines": group,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
    }
    (folder / "cluster.json").write_text(json.dumps(config))
    environment = _environment(folder) | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` and the manifests have it
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    options = ("--num-cpus=0", f"--autoscaling-config={folder}/cluster.json")
    try:
        with cluster(environment, *options, port=port) as address:
            yield address
    finally:
        for process in psutil.process_iter(["cmdline"]):  # the node's, which the head does not take along
            if f":{port}" in " ".join(process.info["cmdline"] or []):
                process.kill()


def _environment(folder: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return environment | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "KGT_HOME": str(folder / "home")}


def _noted(file: Path) -> list[str]:
    """Words that, before those of a Python command, write down when it is started."""
    return ["sh", "-c", f'date +%s.%N > {file}; exec python "$@"', "sh"]


def _submit(address: str, job: str, *command: str, upload: bool = True) -> float:
    """Run a command as a job to its end; when that was asked for."""
    options = ["tick=1", f"address={address}", f"upload={str(upload).lower()}"]
    begun = time.time()
    asked = [sys.executable, str(ROOT / "infra" / "submit.py"), job, *options, "--", *command]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return begun


def _job(address: str, folder: Path, job: str) -> tuple[Any, float]:
    """What the cluster knows of a job, and when its command was started."""
    return JobSubmissionClient(address).get_job_info(f"{job}-1"), float((folder / f"{job}.driver").read_text())


_RUN = {"training": _training, "shards": _shards}


if __name__ == "__main__":
    start(main)
