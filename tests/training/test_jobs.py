"""From configurations to jobs: data pinned, mistakes found before anything starts."""

import gzip
import shutil
from pathlib import Path

import pytest

from kgt.errors import UserError
from pipelines import versions
from pipelines.storage import open_store
from tests.training.conftest import MakeShards
from training import jobs
from training.config import read_configs
from training.plan import Job


def prepare(store: str, out: Path, *argv: str, task: str = "denoise") -> list[Job]:
    settings = [f"task={task}", f"store={store}", f"out={out}", "patch=16", "batch_size=4", *argv]
    return jobs.prepare(read_configs(settings, ""))


def pinned(jobs: list[Job]) -> list[str]:
    """The versions that the only job reads."""
    (job,) = jobs
    return [dataset.version for dataset in job.plan.datasets]


def test_a_job_names_its_data_and_model(denoise_store: str, out: Path) -> None:
    (job,) = prepare(denoise_store, out)
    manifest = versions.current(open_store(denoise_store), "denoise")
    (dataset,) = job.plan.datasets
    assert (dataset.version, dataset.digest, dataset.weight) == (manifest.version, manifest.digest, 1)
    assert [shard.samples for shard in dataset.shards] == [6] * 4
    assert len(dataset.validation) == 1
    assert dataset.shards[0].sha256 == manifest.split("train")[0].sha256
    assert (job.plan.streams, dataset.redraw.sigma.options) == (4, (25.0,))
    assert not out.exists()


def test_a_run_keeps_its_version_when_a_newer_one_comes(make_shards: object, out: Path) -> None:
    store = make_shards("denoise")
    jobs.commit(prepare(store, out, "name=first"))
    assert versions.pins(open_store(store), "denoise") == {"v000001": ["run-first"]}
    make_shards("denoise", store=store, shards=6, samples=4)
    assert pinned(prepare(store, out, "name=first")) == ["v000001"]
    assert pinned(prepare(store, out.with_name("other"))) == ["v000002"]
    assert pinned(prepare(store, out.with_name("other"), "version=v000001")) == ["v000001"]


def test_a_run_goes_on_with_its_own_settings_only(denoise_store: str, out: Path) -> None:
    jobs.commit(prepare(denoise_store, out))
    assert prepare(denoise_store, out, "workers=4")[0].plan.streams == 4
    with pytest.raises(UserError, match=r"holds a run with lr=0\.0005: give the same settings, or another out="):
        prepare(denoise_store, out, "lr=1e-3")


def test_no_shards_says_what_makes_them(tmp_path: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"no shards for sr .*pipelines/synthesize.py task=sr"):
        prepare(f"file://{tmp_path}/empty", out, task="sr")


def test_fewer_shards_than_workers(denoise_store: str, out: Path) -> None:
    with pytest.raises(
        UserError, match=f"v000001 of denoise in {denoise_store} has 4 shards, which cannot feed 8 workers"
    ):
        prepare(denoise_store, out, "workers=8", "batch_size=8")


def test_every_number_of_workers_must_share_the_streams(make_shards: object, out: Path) -> None:
    store = make_shards("denoise", shards=8, samples=2)
    with pytest.raises(UserError, match="workers=3 cannot share 8 streams evenly"):
        prepare(store, out, "streams=8", "batch_size=24", "workers=4", "min_workers=2")


def test_a_patch_larger_than_what_is_stored(make_shards: object, denoise_store: str, out: Path) -> None:
    with pytest.raises(UserError, match=r"patch=49.*48 pixels a side.*patch=48 at most"):
        prepare(denoise_store, out, "patch=49")
    with pytest.raises(UserError, match=r"patch=25.*24 pixels a side"):
        prepare(make_shards("sr"), out, "patch=25", task="sr")
    with pytest.raises(UserError, match=r"patch=40.*32 pixels a side"):  # whole 16×16 blocks of the crop of 40
        prepare(make_shards("jpeg", side=40), out, "patch=40", task="jpeg")


def test_a_store_that_cannot_be_read_says_why(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        prepare("s3://bucket/shards", out)


def test_super_resolution_takes_its_scale_from_the_shards(make_shards: object, out: Path) -> None:
    assert prepare(make_shards("sr", scale=3), out, task="sr")[0].model.scale == 3
    with pytest.raises(UserError, match=r"mix the scales \[2, 3\].*tasks.sr.scale=2"):
        prepare(make_shards("sr", scale=[2, 3]), out, task="sr")


def test_a_fixed_k_is_the_models_own(denoise_store: str, out: Path) -> None:
    assert prepare(denoise_store, out, "topk=128")[0].model.topk == 128


def test_a_damaged_record_is_one_line(denoise_store: str, out: Path) -> None:
    jobs.commit(prepare(denoise_store, out))
    (out / "denoise" / "run.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        prepare(denoise_store, out)


def test_given_pairs_cannot_be_drawn_anew(make_shards: object, out: Path) -> None:
    store = make_shards("denoise", paired=True)
    with pytest.raises(UserError, match=r"redraw=true: .* were given .* give redraw=false"):
        prepare(store, out)
    assert prepare(store, out, "redraw=false")[0].plan.datasets[0].redraw is None


@pytest.fixture
def mixed(denoise_store: str, make_shards: MakeShards) -> str:
    """Two stores, as a list: the second has more and smaller shards, and stronger noise."""
    return f"[{denoise_store},{make_shards('denoise', shards=7, samples=3, sigma=50)}]"


def test_a_mixture_pins_all_its_datasets_and_keeps_them(mixed: str, out: Path, make_shards: MakeShards) -> None:
    weights = "weights=[3,1]"
    (job,) = prepare(mixed, out, weights, "name=mixed")
    first, second = job.plan.datasets
    assert (first.weight, second.weight) == (3, 1)
    assert (len(first.shards), len(second.shards), job.plan.streams) == (4, 7, 4)
    assert [dataset.redraw.sigma.options for dataset in job.plan.datasets] == [(25.0,), (50.0,)]
    jobs.commit([job])
    for dataset in job.plan.datasets:
        assert "run-mixed" in versions.pins(open_store(dataset.store), "denoise")[dataset.version]
    make_shards("denoise", store=second.store, shards=7, samples=2)
    assert prepare(mixed, out, weights)[0].plan == job.plan
    assert pinned(prepare(mixed, out.with_name("other"), weights)) == ["v000001", "v000002"]
    with pytest.raises(UserError, match=r"holds a run with weights=\[3, 1\]: give the same"):
        prepare(mixed, out, "weights=[1,3]")
    with pytest.raises(UserError, match=r"holds a run with .*weights=\[3, 1\]"):
        prepare(mixed, out)


def test_two_versions_of_one_store_are_two_datasets(make_shards: MakeShards, out: Path) -> None:
    store = make_shards("denoise", sigma=15)
    make_shards("denoise", store=store, sigma=50)
    assert pinned(prepare(store, out, "version=[v000001,v000002]")) == ["v000001", "v000002"]


def test_a_dataset_is_named_once(denoise_store: str, tmp_path: Path, out: Path) -> None:
    shutil.copytree(denoise_store.removeprefix("file://"), tmp_path / "copy")
    for store in (f"[{denoise_store},{denoise_store}]", f"[{denoise_store},file://{tmp_path}/copy]"):
        with pytest.raises(UserError, match=r"is the same dataset as v000001 in .*: name it once, and give weights="):
            prepare(store, out)


def test_images_that_one_may_train_on_and_another_hold_out_are_told(
    denoise_store: str, mixed: str, make_shards: MakeShards, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(mixed, out)
    other = make_shards("denoise", val_fraction=0.2, photographs="other")
    prepare(mixed.replace("]", f",{other}]"), out)
    assert caplog.messages == []
    doubtful = make_shards("denoise", val_fraction=0.2)
    prepare(f"[{denoise_store},{doubtful}]", out)
    (said,) = caplog.messages
    for words in (
        f"in {denoise_store} and v000001 in {doubtful} share 4 images",
        "val_fraction=0.05 and 0.2",
        "too high",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("listed", "trouble"),
    [
        (gzip.compress(bytes(2 << 20)), "a line of it is larger than 1 MiB"),
        (gzip.compress(b'{"digest": ["x"]}'), "a line of it names no image"),
        (b"no gzip", "no whole gzip file"),
    ],
    ids=["bomb", "strange", "damaged"],
)
def test_a_hostile_list_of_images_is_refused_by_name(
    denoise_store: str, make_shards: MakeShards, out: Path, listed: bytes, trouble: str
) -> None:
    doubtful = make_shards("denoise", val_fraction=0.2)
    key = versions.current(open_store(doubtful), "denoise").sources["images_key"]
    open_store(doubtful).put(key, listed)
    with pytest.raises(UserError, match=rf"{doubtful}/{key} is damaged \(.*{trouble}.*\): remove it"):
        prepare(f"[{denoise_store},{doubtful}]", out)
    open_store(doubtful).delete(key)
    prepare(f"[{denoise_store},{doubtful}]", out)


def test_what_is_mixed_must_be_for_one_model(make_shards: MakeShards, mixed: str, out: Path) -> None:
    scales = f"[{make_shards('sr', scale=2)},{make_shards('sr', scale=3)}]"
    with pytest.raises(UserError, match="the datasets are of the scales 2, 3, and a model has one"):
        prepare(scales, out, task="sr")
    small = make_shards("denoise", side=32)
    with pytest.raises(UserError, match=rf"patch=40: the shards of denoise in {small}, v000001, .*patch=32 at most"):
        prepare(mixed.replace("]", f",{small}]"), out, "patch=40")
    short = make_shards("denoise", shards=1)
    with pytest.raises(UserError, match=f"v000001 of denoise in {short} has 1 shard, which cannot feed 2 workers"):
        prepare(mixed.replace("]", f",{short}]"), out)
    patterns = f"[{make_shards('demosaic')},{make_shards('demosaic', pattern='gbrg')}]"
    with pytest.raises(UserError, match=r"pattern=rggb alone, not gbrg"):
        prepare(patterns, out, task="demosaic")
    given = make_shards("denoise", paired=True)
    with pytest.raises(UserError, match=rf"redraw=true: .* in {given} were given"):
        prepare(mixed.replace("]", f",{given}]"), out)
