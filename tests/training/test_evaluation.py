"""Evaluation: the published baseline rows, a model's own figures, and one clear line for what cannot be."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from kgt.config import KGTConfig
from kgt.errors import UserError
from kgt.home import home
from kgt.imaging import to_gray, write_image
from kgt.model import KGT
from kgt.weights import save_weights
from pipelines.degradations import DEGRADATIONS
from pipelines.degradations.values import each
from pipelines.json_report import write_report
from training import evaluate, published, tracking
from training.comparison import paired
from training.evaluation import evaluate_task

PHOTO = np.ascontiguousarray(data.astronaut()[:96, 160:288])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder whose name has a space, with two colour photographs and, below, a gray one."""
    folder = tmp_path / "my photos"
    for name, pixels in (
        ("a.png", PHOTO),
        ("b.png", np.ascontiguousarray(PHOTO[:, ::-1])),
        ("deeper/c.png", to_gray(PHOTO)),
    ):
        write_image(folder / name, pixels)
    return folder


def weights(path: Path, task: str, shift: float = 0.0, scale: int = 2) -> Path:
    """A model that adds `shift` to its baseline."""
    ends = {"in_channels": 1, "baseline": "malvar"} if task == "demosaic" else {}
    if task == "sr":
        config = KGTConfig(shape="columnar", dim=8, layers=(1,), heads=(1,), window=8, scale=scale, baseline="bicubic")
    else:
        config = KGTConfig(shape="u", dim=8, layers=(1, 1), heads=(1, 1), window=8, **ends)
    model = KGT(config)
    with torch.no_grad():
        list(model.network.modules())[-1].bias.fill_(shift)
    save_weights(model, path, metadata={"task": task})
    return path


def test_published_baselines_come_out(standard_images: Callable[[str], Path]) -> None:
    """JPEG on classic5, noise on it, and bicubic on Set5, as kept by two decades of papers."""
    jpeg = evaluate_task("jpeg", images=str(standard_images("classic5")), quiet=True)
    assert [row.setting for row in jpeg] == ["quality=10", "quality=20", "quality=30", "quality=40"]
    assert [row.psnr for row in jpeg] == pytest.approx([27.82, 30.12, 31.48, 32.43], abs=0.02)
    assert [row.ssim for row in jpeg] == pytest.approx([0.760, 0.834, 0.867, 0.885], abs=2e-3)
    assert jpeg[0].images == 5
    sr = evaluate_task("sr", images=str(standard_images("Set5")), quiet=True)
    assert [row.psnr for row in sr] == pytest.approx([33.68, 30.40, 28.43], abs=0.05)


def test_noise_has_its_psnr(standard_images: Callable[[str], Path]) -> None:
    for row in evaluate_task("denoise", images=str(standard_images("CBSD68")), limit=4, quiet=True):
        sigma = float(row.setting.removeprefix("sigma="))
        assert row.input_psnr == pytest.approx(20 * math.log10(255 / sigma), abs=0.1)


@pytest.mark.slow
def test_malvar_on_kodak_has_its_published_psnr(standard_images: Callable[[str], Path]) -> None:
    (row,) = evaluate_task("demosaic", images=str(standard_images("Kodak24")), quiet=True)
    assert row.images == 24
    assert row.psnr == pytest.approx(35.78, abs=0.1)
    assert row.also["psnr_uncropped"] < row.psnr


@pytest.mark.parametrize("task", ["deblur", "jpeg", "weather", "demosaic", "sr"])
def test_an_untrained_model_scores_as_the_input(task: str, photos: Path, tmp_path: Path) -> None:
    """It returns its baseline, so model and model=input must agree to the rounding: the two paths meet."""
    path = weights(tmp_path / "w.safetensors", task)
    changes = {"quality": 30} if task == "jpeg" else {"kind": "rain"} if task == "weather" else {}
    (row,) = evaluate_task(task, images=str(photos), model=str(path), changes=changes, limit=2, quiet=True)
    assert row.psnr == pytest.approx(row.input_psnr, abs=0.01)
    assert row.ssim == pytest.approx(row.input_ssim, abs=1e-4)
    assert row.images == 2
    assert row.seconds > 0


def test_a_model_changes_the_output_alone(photos: Path, tmp_path: Path) -> None:
    path = weights(tmp_path / "w.safetensors", "jpeg", shift=0.1)
    (asked,) = evaluate_task("jpeg", images=str(photos), changes={"quality": 90}, model=str(path), quiet=True)
    (given,) = evaluate_task("jpeg", images=str(photos), changes={"quality": 90}, quiet=True)
    assert asked.input_psnr == given.input_psnr == given.psnr
    assert asked.psnr == pytest.approx(20, abs=0.7)  # 0.1 of white beside: 20 dB, a little more where it is clipped


def test_means_are_over_images_and_rows_are_json(photos: Path, tmp_path: Path) -> None:
    rows = evaluate_task("weather", images=str(photos), changes={"kind": ["snow", "rain"]}, quiet=True)
    write_report(tmp_path / "deep" / "report.json", [row.record() for row in rows])
    records = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert [record["setting"] for record in records] == ["kind=snow", "kind=rain"]
    for record in records:
        assert {"task", "set", "setting", "images", "input_psnr", "input_ssim", "psnr", "ssim", "psnr_y"} <= set(record)
        assert record["set"] == "my photos"
        assert [image["image"] for image in record["per_image"]] == ["a.png", "b.png", "deeper/c.png"]
        assert record["psnr"] == pytest.approx(np.mean([image["psnr"] for image in record["per_image"]]))
        assert record["psnr_y"] > record["psnr"]
    assert evaluate_task("weather", images=str(photos), changes={"kind": "snow"}, quiet=True)[0].psnr == rows[0].psnr


def test_sets_of_the_same_last_name_are_two_sets(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With different numbers of images: taken for settings of one set, they could not even be averaged."""
    for of, source in (("GoPro", photos), ("HIDE", photos / "deeper"), ("HIDE", photos)):
        (tmp_path / of).mkdir(exist_ok=True)
        (tmp_path / of / ("sharp" if of == "GoPro" or source != photos else "others")).symlink_to(source)
    monkeypatch.chdir(tmp_path)
    images = f"[GoPro/sharp,{tmp_path}/HIDE/sharp,./HIDE/sharp,HIDE/others]"
    rows = evaluate_task("jpeg", images=images, changes={"quality": 90}, quiet=True)
    assert [row.set for row in rows] == ["GoPro/sharp", "HIDE/sharp", "HIDE/sharp", "others"]
    found = paired(rows, None, "psnr", 0.95)
    assert (found.mean, found.images) == (0, sum(rows[number].images for number in (0, 1, 3)))


def test_perfect_images_count_as_the_highest_psnr(photos: Path) -> None:
    (row,) = evaluate_task("denoise", images=str(photos), changes={"sigma": 0}, quiet=True)
    assert row.psnr == 100
    assert row.ssim == 1


def test_gray_is_asked_for_or_found(photos: Path) -> None:
    colour, gray = (
        evaluate_task("jpeg", images=str(photos), changes={"quality": 10, "gray": gray}, limit=1, quiet=True)[0]
        for gray in (False, True)
    )
    assert gray.psnr > colour.psnr + 0.5
    assert gray.setting == "quality=10 gray=true"
    (found,) = evaluate_task("jpeg", images=str(photos / "deeper"), changes={"quality": 10}, quiet=True)
    assert found.psnr == pytest.approx(gray.psnr)


def test_the_sample_is_the_photographs_held_out() -> None:
    (row,) = evaluate_task("jpeg", images="sample", changes={"quality": 10}, quiet=True)
    assert {image["image"] for image in row.per_image} == {
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "flower.jpg",
        "rocket.jpg",
    }


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of pairs in the manner of GoPro's and Outdoor-Rain's names."""
    for index in (7, 12):
        write_image(tmp_path / "blur" / f"blur_{index:02}.png", PHOTO // 2)
        write_image(tmp_path / "sharp" / f"sharp_{index:02}.png", PHOTO)
    return tmp_path / "blur", tmp_path / "sharp"


def test_ready_pairs_are_matched_by_name(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    (row,) = evaluate_task("deblur", degraded=str(pairs[0]), clean=str(pairs[1]), quiet=True)
    error = np.mean((PHOTO - (PHOTO // 2).astype(float)) ** 2)
    assert (row.setting, row.images) == ("pairs", 2)
    assert row.psnr == pytest.approx(10 * math.log10(255**2 / error))


def test_several_degraded_images_may_have_one_clean_one(tmp_path: Path) -> None:
    for name in ("im_01_s80", "im_01_s95", "im_10_s80"):
        write_image(tmp_path / "rain" / f"{name}.png", PHOTO)
    for name in ("im_01", "im_10"):
        write_image(tmp_path / "clear" / f"{name}.jpg", PHOTO)
    (row,) = evaluate_task("weather", degraded=str(tmp_path / "rain"), clean=str(tmp_path / "clear"), quiet=True)
    assert row.images == 3


def test_several_sets_are_found_by_name_below_the_standard_images(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos / "deeper", tmp_path / "standard" / "classic5")
    monkeypatch.setenv("KGT_DATA", str(tmp_path / "standard"))
    rows = evaluate_task("jpeg", images=f"[classic5, {photos}]", changes={"quality": [10, 20]}, quiet=True)
    assert [(row.set, row.setting, row.images) for row in rows] == [
        ("classic5", "quality=10", 1),
        ("classic5", "quality=20", 1),
        ("my photos", "quality=10", 3),
        ("my photos", "quality=20", 3),
    ]
    monkeypatch.delenv("KGT_DATA")
    with pytest.raises(UserError, match=r"no such folder: classic5, neither here nor below KGT_DATA=\(which is not"):
        evaluate_task("jpeg", images="classic5", quiet=True)


def test_the_papers_figures_stand_beside_whole_sets(photos: Path) -> None:
    known = photos.rename(photos.with_name("CBSD68"))
    rows = evaluate_task("denoise", images=str(known), quiet=True)
    assert [(row.setting, row.published) for row in rows] == [
        ("sigma=15", {}),
        ("sigma=25", {"KGT": 31.79}),
        ("sigma=50", {}),
    ]
    assert not any(row.published for row in evaluate_task("denoise", images=str(known), limit=1, quiet=True))
    for task, sets in published._table().items():
        for settings in sets.values():
            assert settings.keys() <= {"pairs", "default", *(label for label, _ in each(DEGRADATIONS[task].EVALUATION))}


def test_a_sweep_of_k_is_a_row_each_and_a_drawing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = weights(tmp_path / "w.safetensors", "jpeg", shift=0.05)
    asked = ["task=jpeg", f"images={photos}", "tasks.jpeg.quality=10", "limit=1", f"model={path}"]
    assert evaluate.main([*asked, "k=[64,512,64]", f"report={tmp_path / 'sweep'}"]) == 0
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert [(row["k"], row["images"]) for row in rows] == [(64, 1), (512, 1)]
    assert all(row["seconds"] > 0 for row in rows)
    text = (tmp_path / "sweep.md").read_text()
    assert "| jpeg | my photos | quality=10 | RGB | 512 | 1 |" in text
    assert "](sweep-k.png)" in text
    with Image.open(tmp_path / "sweep-k.png") as picture:
        assert min(picture.size) > 100
    assert "512" in capsys.readouterr().out
    assert evaluate.main([*asked, "k=[64,0]"]) == 2
    assert "k=0: a number from 1 to 1024 is wanted" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["jpeg", "demosaic", "sr"])
def test_an_ensemble_of_an_untrained_model_is_that_model(task: str, tmp_path: Path) -> None:
    write_image(tmp_path / "small" / "a.png", np.ascontiguousarray(PHOTO[:32, :40]))
    path = weights(tmp_path / "w.safetensors", task)
    changes = {"quality": 10} if task == "jpeg" else {}
    asked = {"images": str(tmp_path / "small"), "changes": changes, "model": str(path), "quiet": True}
    (alone,), (together,) = (evaluate_task(task, ensemble=ensemble, **asked) for ensemble in (False, True))
    assert together.psnr == pytest.approx(alone.psnr, abs=0.02)  # halves are rounded either way
    assert (alone.ensemble, together.ensemble) == (False, True)


@pytest.mark.usefixtures("mlflow_database")
def test_an_evaluation_can_be_a_run_of_mlflow(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    asked = ["task=jpeg", f"images={photos}", "tasks.jpeg.quality=[10,20]", "mlflow=true"]
    assert evaluate.main([*asked, f"report={tmp_path / 'rows.json'}"]) == 0
    run = capsys.readouterr().out.split()[-1]
    params, metrics, _ = tracking.run_data(run)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert metrics["jpeg/my photos/quality 20/psnr"] == pytest.approx(rows[1]["psnr"])
    assert params["images"] == str(photos)
    assert list((home() / "artifacts").rglob("rows.json"))


def test_ready_pairs_of_another_scale_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "low" / "a.png", np.ascontiguousarray(PHOTO[::4, ::4]))
    write_image(tmp_path / "high" / "a.png", PHOTO)
    asked = {"degraded": str(tmp_path / "low"), "clean": str(tmp_path / "high"), "quiet": True}
    model = str(weights(tmp_path / "s.safetensors", "sr"))
    with pytest.raises(UserError, match=r"a.png is 4 times smaller .* enlarges by 2: name pairs of scale 2"):
        evaluate_task("sr", model=model, **asked)
    assert evaluate_task("sr", **asked)[0].images == 1


def test_an_sr_row_names_its_scale(photos: Path, tmp_path: Path) -> None:
    model = str(weights(tmp_path / "s.safetensors", "sr", scale=3))
    (row,) = evaluate_task("sr", images=str(photos), model=model, limit=1, quiet=True)
    assert row.setting == "scale=3"


def test_images_that_are_no_pair_are_refused(pairs: tuple[Path, Path]) -> None:
    blur, sharp = pairs
    asked = {"degraded": str(blur), "clean": str(sharp), "quiet": True}
    write_image(sharp / "sharp_07.png", PHOTO[:90])
    with pytest.raises(UserError, match=r"blur_07.png is 128x96 and .*sharp_07.png 128x90: no pair for 'deblur'"):
        evaluate_task("deblur", **asked)
    write_image(sharp / "sharp_07.png", to_gray(PHOTO))
    with pytest.raises(UserError, match="one is gray, the other in colour"):
        evaluate_task("deblur", **asked)
    write_image(blur / "blur_13.png", PHOTO)
    with pytest.raises(UserError, match=r"blur_13.png of .*blur has no clean image of its name in .*sharp"):
        evaluate_task("deblur", **asked)
    (blur / "blur_13.png").unlink()
    write_image(sharp / "sharp_13.png", PHOTO)
    with pytest.raises(UserError, match=r"sharp_13.png of .*sharp has no degraded image of its name in .*blur"):
        evaluate_task("deblur", **asked)


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    code = evaluate.main(arguments)
    return code, capsys.readouterr().err


def test_mistakes_are_told_in_one_line(
    photos: Path, tmp_path: Path, pairs: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes((photos / "a.png").read_bytes()[:300])
    write_image(tmp_path / "small" / "tiny.png", PHOTO[:20, :20])
    (tmp_path / "not.safetensors").write_text("no")
    denoiser, enlarger = weights(tmp_path / "d.safetensors", "denoise"), weights(tmp_path / "s.safetensors", "sr")
    mosaics = weights(tmp_path / "m.safetensors", "demosaic")
    images = f"images={photos}"
    for arguments, words in [
        (["task=jpgs", images], "unknown task 'jpgs': did you mean 'jpeg'?"),
        (["task=jpeg", "imags=x"], "unknown setting 'imags': did you mean 'images'?"),
        (["task=jpeg", images, "tasks.jpeg.qualty=3"], "did you mean 'quality'?"),
        (["task=jpeg"], "name the images: images=DIR or images=sample, or both degraded=DIR and clean=DIR"),
        (["task=jpeg", images, f"clean={photos}"], "name the images"),
        (["task=jpeg", f"images={tmp_path / 'nowhere'}"], "no such folder"),
        (["task=jpeg", f"images={tmp_path / 'empty'}"], "no image there"),
        (["task=jpeg", f"images={tmp_path / 'broken'}"], "x.png: the file is truncated or damaged"),
        (["task=demosaic", f"images={tmp_path / 'small'}"], "tiny.png is too small to be scored: 20x20, 31 a side"),
        (["task=demosaic", f"degraded={pairs[0]}", f"clean={pairs[1]}"], "a mosaic is gray"),
        (["task=jpeg", images, "limit=-1"], "limit=-1"),
        (["task=jpeg", f"degraded={pairs[0]}", f"clean={pairs[1]}", "tasks.jpeg.quality=3"], "changes nothing here"),
        (["task=jpeg", images, f"model={tmp_path / 'not.safetensors'}"], "not a weights file"),
        (["task=jpeg", images, f"model={tmp_path / 'none.safetensors'}"], "none.safetensors"),
        (["task=jpeg", images, f"model={denoiser}"], "is a model for 'denoise', not for 'jpeg'"),
        (["task=sr", images, f"model={enlarger}", "tasks.sr.scale=3"], "enlarges by 2: write tasks.sr.scale=2"),
        (["task=demosaic", images, f"model={mosaics}", "tasks.demosaic.pattern=bggr"], "rggb alone, not bggr"),
        (["task=denoise", images, f"model={denoiser}", "k=0"], "k=0"),
        (["task=denoise", images, f"model={denoiser}", "k=[]"], "k=[]: name one"),
        (["task=denoise", images, "ensemble=true"], "model=input restores nothing: ensemble= has no meaning there"),
        (["task=denoise", images, f"model={denoiser}", "device=tpu"], "device=tpu"),
        (["task=jpeg", images, "model=models:/kgt-jpeg@champion"], "no model is registered yet"),
        (["task=jpeg", images, "limit=1", f"report={photos / 'a.png' / 'r.json'}"], "cannot write report"),
    ]:
        code, said = run(capsys, *arguments)
        assert code == 2, arguments
        last = said.strip().splitlines()[-1]
        assert last.startswith("error: "), arguments
        assert words in last, arguments
        assert "Traceback" not in said


def test_a_model_that_is_missing_is_told_before_others_are_measured(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights(tmp_path / "denoise.safetensors", "denoise")
    model = f"model={tmp_path}/{{task}}.safetensors"
    code, said = run(capsys, "task=[denoise,jpeg]", f"images={photos}", model)
    assert (code, len(said.strip().splitlines())) == (2, 1)
    assert "jpeg.safetensors" in said


def test_the_script_runs_from_anywhere(root: Path, photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "rows.json"
    command = [sys.executable, root / "training" / "evaluate.py", "task=[jpeg,demosaic]", f"images={photos}"]
    done = subprocess.run(
        [*command, "tasks.jpeg.quality=10", f"report={report}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [row["task"] for row in json.loads(report.read_text())] == ["jpeg", "demosaic"]
    assert "10 px cut" in done.stdout
    assert "quality=10" in done.stdout
