"""`training/run.py` whole, on a Ray of two cores: Ray Train, DeepSpeed, gloo, checkpoints, registration."""

import contextlib
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
from PIL import Image

from kgt.config import RANDOM_TOPK, preset
from kgt.config import neighbours as of_nodes
from kgt.home import home
from kgt.model import KGT
from kgt.weights import load_weights
from pipelines import versions
from pipelines.storage import open_store
from tests.training.conftest import MakeShards
from training import checkpoint, fit, jobs, lineage, origin, provenance, run, tracking
from training.config import read_configs
from training.schedule import neighbours

STEPS, SEED = 24, 1
SETTINGS = [f"steps={STEPS}", "batch_size=4", "patch=32", "checkpoint_every=6", "warmup=4", f"seed={SEED}"]


@dataclass
class Ran:
    """One call of the command: its exit code, what it printed, its folder."""

    code: int
    stdout: str
    stderr: str
    out: Path
    home: Path

    def history(self, metric: str, task: str = "denoise") -> list[tuple[int, float]]:
        """The metric of every step, as it was logged."""
        record = json.loads((self.out / task / "run.json").read_text())
        points = mlflow.MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}").get_metric_history(
            record["mlflow_run"], metric
        )
        return [(point.step, point.value) for point in points]


def command(store: str, out: Path, *argv: str) -> Ran:
    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = run.main([f"store={store}", f"out={out}", *SETTINGS, *argv])
    return Ran(code, stdout.getvalue(), stderr.getvalue(), out, home())


@pytest.fixture(scope="module")
def undisturbed(
    ray_local: None, make_shards: object, denoise_store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ran]:
    """A run of `denoise`, and of `jpeg` whose shards are damaged, in a home of its own."""
    make_shards("jpeg", store=denoise_store, shards=2)
    for path in Path(denoise_store.removeprefix("file://")).glob("jpeg/pool/train-*.tar"):
        data = path.read_bytes()
        path.write_bytes(data.replace(b"RIFF", b"RUFF"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGT_HOME", str(tmp_path_factory.mktemp("home")))
        asked = ["task=[denoise,jpeg]", "validate_every=8"]
        yield command(denoise_store, tmp_path_factory.mktemp("runs") / "a run", *asked)


@pytest.fixture
def same_home(undisturbed: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home that the undisturbed run used."""
    monkeypatch.setenv("KGT_HOME", str(undisturbed.home))


def test_one_failing_task_leaves_the_others_running(undisturbed: Ran) -> None:
    assert undisturbed.code == 1
    rows = {line.split()[0]: line for line in undisturbed.stdout.splitlines() if line.strip()}
    assert "kgt-denoise version 1" in rows["denoise"]
    assert "registered as challenger" in rows["denoise"]
    assert "failed: shard" in rows["jpeg"]  # its address follows, folded
    assert "Traceback" not in undisturbed.stderr  # which shard it is says it all
    assert f"step {STEPS}/{STEPS}" in undisturbed.stderr
    assert not (undisturbed.out / "jpeg" / "result.json").exists()
    assert json.loads((undisturbed.out / "lock.json").read_text()) == {}  # one for all tasks, and free again


def test_every_step_is_logged_with_its_k_below_n(undisturbed: Ran) -> None:
    losses, drawn = undisturbed.history("loss"), undisturbed.history("k")
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert [k for _, k in drawn] == [neighbours(step, topk="random", seed=SEED) for step in range(STEPS)]
    nodes = preset("kgt-tiny", "denoise").window ** 2
    assert all(k in RANDOM_TOPK and of_nodes(int(k), nodes) < nodes for _, k in drawn)
    assert losses[-1][1] < losses[0][1]


def test_it_is_validated_on_the_way(undisturbed: Ran) -> None:
    """Weights and their average, at two k; the best one stays, as weights and as a checkpoint."""
    for name in ("val_psnr", "val_raw_ssim", "val_psnr_k64", "val_raw_psnr_k64"):
        assert sorted(undisturbed.history(name))[1][0] == 16
    figures = dict(undisturbed.history("val_psnr"))
    assert figures[STEPS] > figures[16] > figures[8]
    assert dict(undisturbed.history("val_raw_psnr"))[16] > figures[16]  # the average lags behind
    folder = undisturbed.out / "denoise"
    _, metadata = load_weights(folder / "best.safetensors")
    assert (metadata["step"], float(metadata["psnr"])) == ("16", figures[16])
    assert checkpoint.committed(open_store(f"file://{undisturbed.out}"), "denoise") == [16, 18, 24]
    with Image.open(folder / "pictures" / "00000016.png") as picture:
        assert picture.size[0] == 3 * 48
    run = json.loads((folder / "run.json").read_text())["mlflow_run"]
    client = mlflow.MlflowClient(f"sqlite:///{undisturbed.home / 'mlflow.db'}")
    logged = [Path(item.path).name for item in client.list_artifacts(run, "pictures")]
    assert logged in (["00000008.png", "00000016.png"], ["00000016.png"])  # the newest, where MLflow was slow
    assert "validation" in undisturbed.stderr


def test_the_machine_is_watched(undisturbed: Ran) -> None:
    assert all(100 < value < 1e5 for _, value in undisturbed.history("memory"))
    assert all(0 <= value <= 100 for _, value in undisturbed.history("system/cpu_utilization_percentage"))
    assert len(undisturbed.history("system/cpu_utilization_percentage")) > 0
    assert len(undisturbed.history("checkpoint")) >= 3


@pytest.mark.usefixtures("same_home")
def test_a_finished_task_is_a_registered_model_with_its_lineage(undisturbed: Ran, denoise_store: str) -> None:
    version = tracking.get_alias("denoise", "challenger")
    manifest = versions.current(open_store(denoise_store), "denoise")
    assert version.tags["dataset"] == f"denoise/{manifest.version}"
    assert version.tags["dataset_digest"] == manifest.digest
    assert version.tags["git_commit"] == origin.git_commit()
    assert "kgt-denoise: denoising" in version.description
    params, metrics, tags = tracking.run_data(version.run_id)
    assert params["dataset_digest"] == manifest.digest
    assert json.loads(params["deepspeed"])["train_batch_size"] == 4
    assert metrics["val_psnr"] > metrics["val_input_psnr"] == pytest.approx(20.17, abs=0.5)
    assert tags["mlflow.parentRunId"] == version.tags["parent_run"]
    assert f"kgt-denoise-v{version.version}" in versions.pins(open_store(denoise_store), "denoise")[manifest.version]
    folder = undisturbed.out / "denoise"
    assert load_weights(folder / "weights.safetensors")[1]["task"] == "denoise"
    with Image.open(folder / "before-after.png") as picture:
        assert picture.size == (3 * 48, 4 * 48)


@pytest.mark.usefixtures("same_home")
def test_a_finished_run_says_so(undisturbed: Ran, denoise_store: str) -> None:
    again = command(denoise_store, undisturbed.out, "task=denoise")
    assert again.code == 0
    assert "finished before" in again.stdout
    assert "kgt-denoise version 1" in again.stdout


@pytest.mark.usefixtures("mlflow_database")
def test_another_registry_gets_the_finished_model(undisturbed: Ran, denoise_store: str, out: Path) -> None:
    """Its weights are there: it is validated and registered again, not trained. Done twice, it is one version."""
    shutil.copytree(undisturbed.out / "denoise", out / "denoise")
    again = command(denoise_store, out, "task=denoise")
    assert again.code == 0, again.stderr
    assert "registered as challenger" in again.stdout
    version = tracking.get_alias("denoise", "challenger")
    (out / "denoise" / "result.json").unlink()
    assert command(denoise_store, out, "task=denoise").code == 0
    assert tracking.get_alias("denoise", "challenger").version == version.version


def test_a_registered_version_can_be_made_again(
    undisturbed: Ran, denoise_store: str, kgt_home: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(undisturbed.home / "mlflow.db", kgt_home / "mlflow.db")
    assert lineage.main(["models:/kgt-denoise/1", "recreate=true"]) == 0
    assert "its weights are those of kgt-denoise version 1, bit for bit" in capsys.readouterr().out


@pytest.mark.slow  # test_engine has the same in one process
@pytest.mark.usefixtures("mlflow_database", "ray_local")
def test_another_engine_trains_the_same_model(undisturbed: Ran, denoise_store: str, out: Path) -> None:
    """ZeRO 3 in bfloat16, by micro-steps, activations computed again, two steps of it traced: only rounding differs."""
    engine = ["zero=3", "precision=bf16", "accumulate=2", "activation_checkpointing=true", "profile=3:4"]
    engine += ["validate_every=16"]
    ran = command(denoise_store, out, "task=denoise", *engine)
    assert ran.code == 0, ran.stderr
    values, expected = ([value for _, value in run.history("loss")] for run in (ran, undisturbed))
    assert values != expected
    assert values == pytest.approx(expected, rel=0.02)
    exact, other = (
        torch.cat(
            [weight.flatten() for weight in load_weights(folder / "denoise" / "weights.safetensors")[0].parameters()]
        )
        for folder in (undisturbed.out, out)
    )
    torch.manual_seed(SEED)
    start = torch.cat([weight.flatten() for weight in KGT(preset("kgt-tiny", "denoise")).parameters()])
    assert (other - exact).norm() < 0.1 * (exact - start).norm()
    assert dict(ran.history("val_psnr"))[16] == pytest.approx(dict(undisturbed.history("val_psnr"))[16], abs=0.2)
    assert f"trace of torch.profiler: file://{out}/denoise/profile/steps-3-4.json.gz" in ran.stderr
    with gzip.open(out / "denoise" / "profile" / "steps-3-4.json.gz") as file:
        names = [event["name"] for event in json.load(file)["traceEvents"]]
    assert names.count("kgt::select_neighbours") == 2 * 2 * 3  # steps, micro-steps, stages: a graph is made once
    for part in ("wait", "forward", "backward", "update"):
        assert all(seconds >= 0 for _, seconds in ran.history(part))
    assert {value for _, value in ran.history("batch_size")} == {4}


@pytest.mark.usefixtures("mlflow_database", "ray_local")
def test_one_model_learns_from_two_datasets(denoise_store: str, make_shards: MakeShards, out: Path) -> None:
    """Of other sizes, read three to one: each worker ends with its last step, and the model names and keeps both."""
    other = make_shards("denoise", shards=5, samples=3, sigma=50)
    ran = command(f"[{denoise_store},{other}]", out, "task=denoise", "weights=[3,1]", "steps=12", "loader_threads=3")
    assert ran.code == 0, ran.stderr
    assert [step for step, _ in ran.history("loss")] == list(range(1, 13))
    version = tracking.get_alias("denoise", "challenger")
    digests = [versions.load(open_store(store), "denoise", "v000001").digest for store in (denoise_store, other)]
    assert provenance.datasets_of(version.tags) == [
        provenance.Pinned(store, "denoise", "v000001", digest)
        for store, digest in zip((denoise_store, other), digests, strict=True)
    ]
    params, _, _ = tracking.run_data(version.run_id)
    assert params["dataset_digest"] == version.tags["dataset_digest"]
    assert params["weights"] == "[3, 1]"
    marker = json.loads((out / "denoise" / "checkpoints" / "00000012" / checkpoint.MARKER).read_text())
    assert marker["state"]["dataset digest"] == version.tags["dataset_digest"]
    for store in (denoise_store, other):
        pins = versions.pins(open_store(store), "denoise")["v000001"]
        assert {f"run-{json.loads((out / 'run.json').read_text())['name']}", "kgt-denoise-v1"} <= {*pins}


@pytest.mark.usefixtures("mlflow_database", "ray_local")
def test_a_run_whose_weights_are_lost_ends_with_the_reason(denoise_store: str, out: Path) -> None:
    """The first step moves the weights out of all range; under ZeRO 3 each worker sees its part of them alone."""
    ran = command(denoise_store, out, "task=denoise", "lr=1e30", "clip=0", "warmup=0", "max_skipped=2", "zero=3")
    assert ran.code == 1
    outcome = " ".join(ran.stdout.split())
    assert "failed: NotFinite: 2 steps in a row" in outcome
    assert re.search(r"what \S+ returns is not finite|the weights are not finite: \S+", outcome)
    assert "workers lost" not in ran.stderr


class Killer(threading.Thread):
    """Kills a training worker, as the kernel would, when the checkpoint of each of the steps is committed."""

    def __init__(self, out: Path, steps: list[int]) -> None:
        super().__init__(daemon=True)
        self.markers = [out / "denoise" / "checkpoints" / f"{step:08d}" / checkpoint.MARKER for step in steps]
        self.killed = 0
        self.start()

    def run(self) -> None:
        for marker in self.markers:
            while not marker.exists():
                time.sleep(0.005)
            ours = psutil.Process().children(recursive=True)
            [*_, last] = (process for process in ours if "RayTrainWorker" in "".join(process.cmdline()))
            last.kill()
            self.killed += 1


@pytest.mark.usefixtures("mlflow_database")
@pytest.mark.slow
def test_killed_workers_change_nothing(undisturbed: Ran, denoise_store: str, out: Path) -> None:
    """The run mends every loss after a new checkpoint by itself; all numbers are the same."""
    killer = Killer(out, [6, 12])
    ran = command(denoise_store, out, "task=denoise", "max_failures=1")
    assert (ran.code, killer.killed) == (0, 2)
    assert ran.stderr.count("starting again from the last checkpoint") == 2
    assert ran.history("loss") == undisturbed.history("loss")


@pytest.mark.slow
def test_everything_may_lie_in_s3(make_shards: object, s3_bucket: str, root: Path, tmp_path: Path) -> None:
    """In a process of its own, whose Ray has the AWS variables, started elsewhere than in the checkout."""
    store, out = make_shards("denoise", store=f"s3://{s3_bucket}/shards"), f"s3://{s3_bucket}/runs/one"
    ran = subprocess.run(
        [
            *(sys.executable, root / "training" / "run.py", "task=denoise", f"store={store}", f"out={out}"),
            *(*SETTINGS, "validate_every=16"),
        ],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    keys = list(open_store(out).list("denoise/"))
    assert {"denoise/result.json", "denoise/best.safetensors", "denoise/pictures/00000016.png"} <= set(keys)
    assert f"denoise/checkpoints/{STEPS:08d}/{checkpoint.MARKER}" in keys
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("gpus", "environment"), [(0, {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}), (1, {})])
def test_a_job_sees_gpus_only_where_it_asks_for_them(
    denoise_store: str, out: Path, gpus: int, environment: dict[str, object]
) -> None:
    settings = [f"store={denoise_store}", f"out={out}", *SETTINGS, "task=denoise", f"gpus_per_worker={gpus}"]
    (job,) = jobs.prepare(read_configs(settings, ""))
    assert fit._trainer(job, None).run_config.worker_runtime_env == environment


@pytest.mark.usefixtures("ray_local")
def test_a_machine_too_small_says_what_it_has(denoise_store: str, out: Path) -> None:
    ran = command(denoise_store, out, "task=denoise", "workers=4")
    assert ran.code == 2
    assert "need 4 CPUs, and this machine has 2 CPUs" in ran.stderr
    assert not out.exists()


def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path: Path, out: Path) -> None:
    ran = command(f"file://{tmp_path}/empty", out, "task=sr")
    assert ran.code == 2
    assert ran.stderr.startswith("error: no shards for sr")
    assert ran.stderr.count("\n") == 1
    assert not out.exists()
