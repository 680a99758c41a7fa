"""The chain behind a registered version: printed, checked for gaps, and enough to make the version again."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from kgt.home import tracking_uri
from kgt.model import KGT
from kgt.registry import fetch
from kgt.weights import save_weights
from pipelines import versions
from pipelines.storage import Unavailable, open_store
from training import finish, jobs, lineage, provenance, tables, tracking
from training.config import read_configs
from training.mixture import Source
from training.plan import Job

SETTINGS = ["task=denoise", "steps=7", "redraw=true", "lr=1e-3", "patch=32"]

pytestmark = pytest.mark.usefixtures("mlflow_database")


@pytest.fixture
def store(denoise_store: str, tmp_path: Path) -> str:
    """A copy of the shards that the test may prune: without the pins of other tests' runs."""
    ignored = shutil.ignore_patterns("pins")
    shutil.copytree(denoise_store.removeprefix("file://"), tmp_path / "shards", ignore=ignored)
    return f"file://{tmp_path / 'shards'}"


Trained = tuple[Job, str, dict[str, str]]


@pytest.fixture
def train(out: Path, tmp_path: Path) -> Callable[..., Trained]:
    """All that a run's last stage is given, as if it had been trained."""

    def make(*argv: str) -> Trained:
        config = read_configs([*SETTINGS, f"out={out}", *argv], "")[0]
        (job,) = jobs.prepare([config])
        parent = tracking.start_run("first")
        run = tracking.start_run("first/denoise", parent=parent)
        tracking.log_params(run, provenance.run_settings(job))
        job = dataclasses.replace(job, config=dataclasses.replace(config, gpus_per_worker=0))  # to validate it here
        torch.manual_seed(config.seed)
        save_weights(KGT(job.model), tmp_path / "weights.safetensors", metadata={"task": "denoise"})
        open_store(config.out).put("denoise/weights.safetensors", tmp_path / "weights.safetensors")
        tags = provenance.run_tags(job, [{"step": 0, "git_commit": "c" * 40}])
        return job, run, tags | {"run": "first", "parent_run": parent}

    return make


@pytest.fixture
def register(train: Callable[..., Trained]) -> Callable[..., str]:
    """Registers a version as a run's last stage does; its address."""
    return lambda *argv: f"models:/kgt-denoise/{finish.finish(*train(*argv))['model_version']}"


@pytest.fixture
def registered(register: Callable[..., str], store: str) -> str:
    """The address of a version."""
    return register(f"store={store}")


def test_the_whole_chain_is_printed_and_written(
    registered: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert lineage.main([registered, f"report={tmp_path / 'chain.json'}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("kgt-denoise version 1 (challenger)", f"denoise/v000001 in {store}", "val_psnr 20.", "steps=7"):
        assert words in said
    assert "the chain is whole" in said
    chain = json.loads((tmp_path / "chain.json").read_text())
    assert chain["settings"]["lr"] == "0.001"
    assert chain["gaps"] == []


def test_its_command_asks_for_the_same_training(registered: str, store: str) -> None:
    command = provenance.trace(registered).command("again")
    (config,) = read_configs(command, "")
    (first,) = read_configs([*SETTINGS, f"store={store}"], "")
    assert config.identity() == first.identity() | {"version": "v000001", "streams": 4}
    assert (config.workers, config.name) == (2, "again")


ON_A_GPU = {
    "workers": 1,
    "min_workers": 0,
    "cpus_per_worker": 4,
    "gpus_per_worker": 1,
    "accumulate": 2,
    "activation_checkpointing": True,
    "offload": "optimizer",
}


@pytest.mark.usefixtures("ray_local")
def test_its_command_asks_for_the_same_computation(
    register: Callable[..., str], store: str, capsys: pytest.CaptureFixture
) -> None:
    """What decides the last bits; a machine that has not what it needs says so."""
    asked = [f"{name}={str(value).lower()}" for name, value in ON_A_GPU.items()]
    address = register(f"store={store}", *asked, "zero=1", "precision=fp16")
    (config,) = read_configs(provenance.trace(address).command("again"), "")
    assert config.computation() == ON_A_GPU
    assert (config.precision, config.zero) == ("fp16", 1)
    assert lineage.main([address, "recreate=true"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: workers=1 of cpus_per_worker=4 need 4 CPUs and 1 GPUs, and this machine has 2 CPUs")


def test_what_is_made_again_is_compared_by_its_own_version(
    register: Callable[..., str], store: str, kgt_home: Path, capsys: pytest.CaptureFixture
) -> None:
    """A run that is found finished is no challenger any more where another one has registered since."""
    first = register(f"store={store}", f"out={kgt_home / 'runs' / 'again'}")
    jobs.commit(jobs.prepare(read_configs(provenance.trace(first).command("again"), "")))
    register(f"store={store}", f"out={kgt_home / 'other'}", "seed=1")
    assert str(tracking.get_alias("denoise", "challenger").version) == "2"
    assert lineage.main([first, "recreate=true", "name=again"]) == 0
    assert "its weights are those of kgt-denoise version 1, bit for bit" in capsys.readouterr().out


def test_the_last_stage_done_twice_leaves_every_figure_once(train: Callable[..., Trained], store: str) -> None:
    trained = train(f"store={store}")
    first = finish.finish(*trained)
    assert finish.finish(*trained) == first
    client = MlflowClient(tracking_uri())
    for name in ("val_psnr", "val_ssim", "val_input_psnr", "val_pairs"):
        (point,) = client.get_metric_history(trained[1], name)
        assert point.step == 7


def test_what_it_started_from_is_that_version_for_good(
    register: Callable[..., str], store: str, make_shards: Callable[..., str], tmp_path: Path, capsys: object
) -> None:
    """Not what an alias leads to by now; and all data behind it is kept, too."""
    other = make_shards("denoise", sigma=50)
    register(f"store={other}")
    tracking.set_alias("denoise", "champion", "1")
    weights = fetch("models:/kgt-denoise/1")
    child = register(f"store={store}", f"out={tmp_path / 'child'}", "init=models:/kgt-denoise@champion")
    assert "kgt-denoise-v2" in versions.pins(open_store(other), "denoise")["v000001"]
    tracking.set_alias("denoise", "champion", "2")
    (config,) = read_configs(provenance.trace(child).command("again"), "")
    assert config.init == "models:/kgt-denoise/1"
    started = f"models:/kgt-denoise/1, sha256 {hashlib.sha256(weights.read_bytes()).hexdigest()}"
    assert lineage.main([child]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"starts from {started}" in said
    assert f"data denoise/v000001 in {other}" in said  # the chain of the version it started from
    assert "- init: models:/kgt-denoise/1\n" in tracking.get_alias("denoise", "challenger").description
    weights.write_bytes(weights.read_bytes() + b" ")
    assert lineage.main([child]) == 1
    assert "init=models:/kgt-denoise/1 no longer holds the weights" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("what", ["its data", "its weights"])
def test_a_store_that_is_away_is_no_gap(registered: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promotion would refuse the version for good."""

    def away(*_: object) -> None:
        raise Unavailable("no answer")

    if what == "its data":
        monkeypatch.setattr(provenance.versions, "load", away)
    else:
        tracking.set_version_tags("denoise", "1", {"init": "s3://runs/x", "init_sha256": "0" * 64})
        monkeypatch.setattr(provenance.jobs, "start_weights", away)
    with pytest.raises(Unavailable):
        provenance.trace(registered)


def test_code_that_no_commit_names_is_a_gap_but_may_be_here(registered: str, capsys: pytest.CaptureFixture) -> None:
    gap = f"its code was changed after commit {'d' * 40}, and what it was is not recorded"
    tracking.set_version_tags("denoise", "1", {"git_commit": f"[{'c' * 40}, {'d' * 40}-dirty]"})
    assert provenance.trace(registered).gaps == [gap]
    assert lineage.main([registered]) == 1
    assert gap in " ".join(capsys.readouterr().out.split())
    assert "steps=7" in provenance.trace(registered).command("again")
    tracking.set_version_tags("denoise", "1", {"git_commit": f"[unknown, {'d' * 40}]"})
    assert provenance.trace(registered).gaps == ["the code of its first steps is not recorded"]
    tracking.set_version_tags("denoise", "1", {"git_commit": f"source-{'0' * 16}"})
    (gap,) = provenance.trace(registered).gaps
    assert gap.startswith(f"no commit names its code (source-{'0' * 16}): train from a checkout, by infra/submit.py")
    assert "steps=7" in provenance.trace(registered).command("again")


def test_that_workers_may_have_been_missing_is_told(
    register: Callable[..., str], store: str, capsys: pytest.CaptureFixture
) -> None:
    """Nobody knows then on how many the weights come again bit for bit."""
    assert lineage.main([register(f"store={store}", "min_workers=1")]) == 0
    told = capsys.readouterr()
    assert "min_workers=1" in told.out
    assert "warning: fewer workers than it asked for may have made some of its steps" in told.err


def test_data_that_is_gone_or_another_is_a_gap(registered: str, store: str, capsys: pytest.CaptureFixture) -> None:
    manifest = Path(store.removeprefix("file://"), "denoise", "versions", "v000001.json")
    manifest.unlink()
    assert lineage.main([registered]) == 1
    assert "its data is not to be had" in " ".join(capsys.readouterr().out.split())
    assert lineage.main([registered, "recreate=true"]) == 2
    assert "kgt-denoise version 1 cannot be made again: its data is not to be had" in capsys.readouterr().err


def test_the_data_of_a_registered_model_is_not_pruned(registered: str, store: str, make_shards: object) -> None:
    make_shards("denoise", store=store, sigma=25)
    make_shards("denoise", store=store, sigma=25)
    opened = open_store(store)
    versions.prune(opened, "denoise", 1)
    assert versions.list_versions(opened, "denoise") == ["v000001", "v000003"]
    assert provenance.trace(registered).gaps == []
    versions.unpin(opened, "denoise", "v000001", "kgt-denoise-v1")
    versions.prune(opened, "denoise", 1)
    assert versions.list_versions(opened, "denoise") == ["v000003"]  # it was the pin that kept it


def test_all_data_of_a_mixture_is_in_the_chain_and_kept(
    register: Callable[..., str], store: str, make_shards: Callable[..., str], capsys: pytest.CaptureFixture
) -> None:
    other = make_shards("denoise", sigma=50)
    address = register(f"store=[{store},{other}]", "weights=[3,1]")
    assert lineage.main([address]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"data denoise/v000001 in {name}, digest " in said for name in (store, other))
    (config,) = read_configs(provenance.trace(address).command("again"), "")
    assert config.sources() == (Source(store, "v000001", 3), Source(other, "v000001", 1))
    card = tracking.get_alias("denoise", "challenger").description
    for name, weight in ((store, 3), (other, 1)):
        assert re.search(rf"- shards: {name}, denoise/v000001, digest [0-9a-f]{{64}}, weight {weight}\n", card)
        for _ in range(2):
            make_shards("denoise", store=name, shards=1)
        versions.prune(open_store(name), "denoise", 1)
        assert versions.list_versions(open_store(name), "denoise") == ["v000001", "v000003"]
    Path(other.removeprefix("file://"), "denoise", "versions", "v000001.json").unlink()
    (gap,) = provenance.trace(address).gaps
    assert gap.startswith(f"its data is not to be had: {other} has no version v000001")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models:/kgt-denoise/9"], "model 'kgt-denoise' has no version 9: it has 1"),
        (["models:/kgt-denoise@champion"], "has no alias 'champion': it has challenger"),
        (["models:/kgt-sr/1"], "no registered model 'kgt-sr': "),
        (["kgt-denoise"], "model address 'kgt-denoise': write models:/"),
        (["models:/kgt-denoise/1", "recreat=true"], "did you mean 'recreate'?"),
    ],
)
def test_mistakes_are_one_line(
    registered: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert lineage.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize("spoilt", ["dataset", "store", "dataset_digest"])
def test_a_spoilt_tag_hides_nothing_else(spoilt: str, capsys: pytest.CaptureFixture) -> None:
    tags = {"dataset": "[denoise/v000001, denoise/v000002]", "store": "[s3://a, s3://b]", "dataset_digest": "[d1, d2]"}
    tags |= {spoilt: "[a", "git_commit": "c" * 40}
    gaps = ["a tag is no list"]
    tables.print_chain(provenance.Provenance("kgt-denoise", "1", [], tags, "", {"lr": "0.001"}, {}, gaps))
    said = " ".join(capsys.readouterr().out.split())
    kept = [value.strip("[]").split(", ")[1] for name, value in tags.items() if name not in (spoilt, "git_commit")]
    for words in ("[a", *kept, "c" * 40, "lr=0.001", "has gaps: a tag is no list"):
        assert words in said
