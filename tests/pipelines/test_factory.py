"""From photographs to published versions, on a real Ray."""

import gzip
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from kgt.tasks import TASKS
from pipelines import datasets, factory, regenerate, synthesize, versions
from pipelines.plan import Recipe, plan, recipe_of
from pipelines.shards import decode_pair, read_shard
from pipelines.sources import list_sources
from pipelines.storage import Store
from pipelines.survey import Image as SourceImage
from pipelines.synthesis import make_shard
from tests.pipelines.runs import arguments, contents

pytestmark = pytest.mark.usefixtures("ray_local")


def test_all_six_tasks(photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "bad.png").write_text("not an image")
    assert synthesize.main(arguments(photos, file_store)) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^│ (\w+)", printed, re.MULTILINE) == list(TASKS)
    for task in TASKS:
        manifest = versions.current(file_store, task)
        train, val = manifest.statistics["train"], manifest.statistics["val"]
        assert (manifest.version, train["pairs"] + val["pairs"], train["shards"]) == ("v000001", 18, 4)
        assert val["pairs"] >= 3
        assert 5 < train["input_psnr"] < 60
        assert manifest.sources["images"] == 6
        assert manifest.sources["rejects"] == {"not-an-image": 1}
        assert f"{train['input_psnr']:.2f}" in printed

        digests = {"train": set(), "val": set()}
        for shard in manifest.shards:
            with file_store.open(manifest.key(shard)) as file:
                pairs = [decode_pair(sample) for sample in read_shard(file)]
            assert len(pairs) == shard.samples
            digests[shard.split] |= {pair.meta["source"] for pair in pairs}
        assert not digests["train"] & digests["val"]
        (reject,) = map(json.loads, file_store.get(manifest.sources["rejects_key"]).splitlines())
        assert (reject["source"], reject["reason"]) == ("bad.png", "not-an-image")
    listed = versions.current(file_store, "deblur").sources["rejects_key"]
    assert f"1 of 7 source images not used: not-an-image 1, listed in {file_store.url}/{listed}" in printed


def test_the_same_again_is_nothing_to_do(photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesize.main(arguments(photos, file_store, "task=[sr,jpeg]")) == 0
    before = contents(file_store)
    capsys.readouterr()
    assert synthesize.main(arguments(photos, file_store, "task=[sr,jpeg]")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "sr: nothing to do, version v000001 is current",
        "jpeg: nothing to do, version v000001 is current",
    ]
    assert contents(file_store) == before
    assert synthesize.main(arguments(photos, file_store, "task=[sr,jpeg]", "tasks.jpeg.quality=10")) == 0
    assert "sr: nothing to do" in capsys.readouterr().out
    assert versions.list_versions(file_store, "jpeg") == ["v000001", "v000002"]
    assert versions.current(file_store, "jpeg").recipe["settings"]["quality"] == 10


def test_order_and_parallelism_change_no_byte(photos: Path, tmp_path: Path, file_store: Store) -> None:
    """Ray's tasks side by side against one process, backwards; from another folder, under other names."""
    assert synthesize.main(arguments(photos, file_store, "task=[denoise,weather]")) == 0
    moved = photos.rename(tmp_path / "moved")
    for number, path in enumerate(sorted(moved.rglob("*.png"))):
        path.rename(path.with_name(f"{9 - number}.png"))
    alone = factory.open_store(f"file://{tmp_path}/alone")
    seen = factory.survey(list_sources(str(moved), "unspecified"), 48, 0.5)
    common = {
        "seed": 0,
        "crop": 48,
        "crops": 3,
        "grid": None,
        "max_flatness": 1.0,
        "paired": False,
        "val_fraction": 0.05,
        "shard_mib": 256.0,
        "shards_min": 4,
    }
    for task in ("weather", "denoise"):
        for shard in reversed(plan(recipe_of(task, {}, **common), seen.images, 1)):
            make_shard({"shard": shard, "store": alone})
    made = contents(file_store)
    assert contents(alone) == {key: data for key, data in made.items() if "/pool/" in key}


def test_a_store_that_lost_its_pointer_or_a_shard_says_so(
    photos: Path, file_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthesize.main(arguments(photos, file_store, "task=[sr,jpeg]")) == 0
    at = f"store={file_store.url}"
    manifest = versions.current(file_store, "jpeg")
    file_store.put(manifest.key(manifest.shards[0]), b"cut")
    file_store.delete("sr/CURRENT")
    capsys.readouterr()
    assert datasets.main(["list", at]) == 0
    assert capsys.readouterr().out.count("v000001") == 2
    assert datasets.main(["show", at, "task=sr"]) == 2
    assert "sr/CURRENT is missing, though there are versions" in capsys.readouterr().err
    assert datasets.main(["show", at, "task=jpeg", f"preview={tmp_path}/sheet.png"]) == 2
    assert "is not what was published (cut off): python pipelines/datasets.py verify" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()


def test_shards_that_were_lost_are_made_again(
    photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(photos, file_store, "task=denoise")
    assert synthesize.main(asked) == 0
    assert regenerate.main([*asked, "fraction=0.5"]) == 0
    before = contents(file_store)
    live = versions.current(file_store, "denoise")
    for shard in live.shards[::2]:
        file_store.delete(live.key(shard))
    file_store.put(live.key(live.shards[1]), b"cut")
    capsys.readouterr()
    assert synthesize.main(asked) == 0
    assert "1 of 5 shards were there already" in capsys.readouterr().out
    assert contents(file_store) == before
    assert synthesize.main(asked) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_closing_figures_as_json(photos: Path, file_store: Store, tmp_path: Path) -> None:
    (photos / "bad.png").write_text("not an image")
    asked = arguments(photos, file_store, "task=[sr,jpeg]", f"report={tmp_path}/report.json")
    assert synthesize.main(asked) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    manifest = versions.current(file_store, "jpeg")
    assert report["tasks"]["jpeg"] == {"version": "v000001", "digest": manifest.digest, **manifest.statistics}
    assert report["pairs_made"] == 36
    assert report["shards"] == {"made": 10, "kept": 0}
    assert report["bytes"] == sum(len(file_store.get(f"{task}/pool/{key}")) for task, key in tars(file_store))
    assert report["rejects"] == {"not-an-image": 1}
    assert all(50 < peak < 5000 for peak in report["peak_mib"].values())
    assert synthesize.main(asked) == 0
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["up_to_date"] == {"sr": "v000001", "jpeg": "v000001"}
    assert again["pairs_made"] == 0


def test_what_the_survey_saw_is_kept_with_the_version(photos: Path, file_store: Store) -> None:
    assert synthesize.main(arguments(photos, file_store, "task=sr")) == 0
    listed = gzip.decompress(file_store.get(versions.current(file_store, "sr").sources["images_key"]))
    images = [json.loads(line) for line in listed.splitlines()]
    assert sorted(image["source"] for image in images) == [
        *(f"more/photo {n}.png" for n in (5,)),
        *(f"photo {n}.png" for n in range(5)),
    ]
    assert all((image["width"], image["licence"]) == (96, "unspecified") for image in images)


def test_what_is_withdrawn_or_guarded_is_refused_and_listed(
    photos: Path, tmp_path: Path, file_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(photos / "photo 2.png") as image:
        (tmp_path / "tests").mkdir()
        image.save(tmp_path / "tests" / "secret.png")
    asked = arguments(photos, file_store, "task=sr", f"guard={tmp_path}/tests")
    assert synthesize.main([*asked, "exclude=[photo 1.png,gone.png]"]) == 0
    out = capsys.readouterr().out
    assert "exclude=gone.png: no image in the source matches it" in out
    listed = file_store.get(versions.current(file_store, "sr").sources["rejects_key"])
    reasons = {reject["source"]: reject["reason"] for reject in map(json.loads, listed.splitlines())}
    assert reasons == {"photo 1.png": "excluded", "photo 2.png": "leak"}
    assert synthesize.main([*asked, "exclude=more/*"]) == 0
    assert versions.current(file_store, "sr").version == "v000002"


def tars(store: Store) -> list[tuple[str, str]]:
    keys = [key.split("/") for key in store.list("") if key.endswith(".tar")]
    return [(task, name) for task, _, name in keys]


def test_plan_only_and_preview_make_no_shards(
    photos: Path, file_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    report = f"report={tmp_path}/plan.json"
    assert synthesize.main(arguments(photos, file_store, "plan_only=true", f"preview={sheet}", report)) == 0
    assert "train shards" in capsys.readouterr().out
    planned = json.loads((tmp_path / "plan.json").read_text())
    assert planned["plan"]["jpeg"]["pairs"] == 18
    assert planned["plan"]["jpeg"]["core_seconds"] > 0
    assert not (tmp_path / "store").exists()
    with Image.open(sheet) as image:
        assert image.height > 6 * 192


def test_datasets_looks_after_versions(photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesize.main(arguments(photos, file_store, "task=[sr,jpeg]")) == 0
    at = f"store={file_store.url}"
    capsys.readouterr()
    assert datasets.main(["list", at]) == 0
    assert "current" in capsys.readouterr().out
    assert datasets.main(["show", at, "task=sr"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "v000001"
    sheet = file_store.root / "sheet.png"
    assert datasets.main(["show", at, f"preview={sheet}"]) == 0
    with Image.open(sheet) as image:
        assert 3 * 192 > image.height > 2 * 192
    capsys.readouterr()
    assert datasets.main(["verify", at]) == 0
    assert "10 shards of 2 tasks are as published" in capsys.readouterr().out
    assert datasets.main(["pin", at, "task=sr", "name=paper"]) == 0
    assert datasets.main(["unpin", at, "task=sr", "name=paper"]) == 0
    assert datasets.main(["prune", at, "keep=1"]) == 0
    capsys.readouterr()

    manifest = versions.current(file_store, "sr")
    swapped, cut, gone = (manifest.key(shard) for shard in manifest.shards[:3])
    file_store.put(swapped, file_store.get(cut))
    file_store.put(cut, file_store.get(cut)[:-1500])
    file_store.delete(gone)
    assert datasets.main(["verify", at]) == 2
    printed = capsys.readouterr().err
    assert "3 of 10 shards" in printed
    assert all(key in printed for key in (swapped, cut, gone))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lst"], "did you mean 'list'"),
        (["show", "task=sr"], "no shards for sr"),
        (["list"], "no shards for"),
        (["show", "task=sr", "vresion=v000001"], "did you mean 'version'"),
    ],
)
def test_datasets_names_mistakes(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert datasets.main(argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("task=denoize", "did you mean 'denoise'"),
        ("croop=3", "did you mean 'crop'"),
        ("tasks.jpeg.qality=3", "did you mean 'quality'"),
        ("crop=0", "above 0"),
        ("crop=20", "too small"),
        ("val_fraction=2", "share from 0 to 1"),
        ("source=/no/such/folder", "no such folder"),
        ("store=gs://x", "unknown scheme"),
        ("preview=sheet.txt", "suffix"),
        ("grid=0", "above 0"),
        ("frames=5", "that is for one task"),
        ("degraded=/x", "that is for one task"),
        ("tasks.deblur.blur=video", "say how many with frames="),
        ("tasks.deblur.blur=kernel", "say which with tasks.deblur.kernels"),
        ("exclude=[{a: b}]", "patterns are written"),
        ("exclude=[a", "patterns are written"),
        ("shard_mib=nan", "above 0"),
        ("min_sharpness=nan", "from 0 on"),
        ("report=/tmp", "it is a folder"),
        ("exclude=/no/such/file.txt", "cannot read /no/such/file.txt"),
        ("source=/no/such/list.txt", "cannot read /no/such/list.txt"),
        ("source=/no/such/{0..3}.tar", "/no/such/0.tar"),
        ("max_flatness=1.1", "share from 0 to 1"),
        ("report=/proc/report.json", "cannot write report"),
    ],
)
def test_mistakes_end_in_one_line_and_change_nothing(
    argument: str, message: str, kgt_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthesize.main([argument]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(kgt_home.iterdir()) == []


def test_sample_photographs_stay_on_their_side() -> None:
    sources = list_sources("sample", "")
    images = [SourceImage(s, f"{n:032x}", 300, 300) for n, s in enumerate(sources)]
    sides = {shard.split: {p.image.source.name for p in shard.parts} for shard in plan(_recipe(), images, 1)}
    assert sides["val"] == {s.name for s in sources if s.split == "val"}


def _recipe() -> Recipe:
    common = {"seed": 0, "grid": None, "max_flatness": 0.9, "paired": False, "shard_mib": 256.0, "shards_min": 1}
    return recipe_of("sr", {}, crop=64, crops=2, val_fraction=0.5, **common)
