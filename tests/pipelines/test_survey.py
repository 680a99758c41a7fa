"""The survey: what every source image is, what is refused and why."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from kgt.errors import UserError
from kgt.imaging import read_image
from pipelines import cluster, detail
from pipelines import survey as survey_module
from pipelines.alignment import check_frames
from pipelines.frames import list_frames
from pipelines.jpeg_quality import jpeg_quality
from pipelines.leaks import Guard, guarded_view, load_guard
from pipelines.pairing import list_pairs, pair_check
from pipelines.sample import sample_photographs
from pipelines.sources import list_sources
from pipelines.survey import Survey, digest_of, survey
from pipelines.withdrawal import read_withdrawal

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture
def mixed(photos: Path) -> Path:
    """Good photographs with some of every bad kind between them."""
    good = (photos / "photo 0.png").read_bytes()
    (photos / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "text.png").write_text("not an image")
    Image.fromarray(np.full((64, 64), 999, np.uint16)).save(photos / "deep.png")
    Image.new("CMYK", (64, 64)).save(photos / "cmyk.jpg")
    Image.new("RGBA", (64, 64), (1, 2, 3, 4)).save(photos / "alpha.png")
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    Image.new("RGB", (300, 40)).save(photos / "narrow.png")
    shutil.copy(photos / "photo 1.png", photos / "copy.png")
    return photos


def test_the_survey_says_what_is_not_used_and_why(mixed: Path) -> None:
    seen = []
    result = survey(list_sources(str(mixed), ""), 48, 0.6, lambda: seen.append(1))
    assert len(seen) == 14
    assert {(reject.name, reject.reason) for reject in result.rejects} == {
        ("cut.png", "truncated"),
        ("text.png", "not-an-image"),
        ("deep.png", "16-bit"),
        ("cmyk.jpg", "cmyk"),
        ("alpha.png", "alpha"),
        ("dot.png", "too-small"),
        ("narrow.png", "smaller-than-crop"),
        ("photo 1.png", "duplicate"),
    }
    assert len(result.images) == 6
    assert [i.digest for i in result.images] == sorted(i.digest for i in result.images)
    assert {(i.height, i.width) for i in result.images} == {(80 + n, 96) for n in range(6)}


def test_too_many_bad_images_fail_the_run(mixed: Path) -> None:
    with pytest.raises(UserError, match=r"7 of 14 source images cannot be used, such as alpha.png: .*max_reject"):
        survey(list_sources(str(mixed), ""), 48, 0.4)
    with pytest.raises(UserError, match=r"14 of 14 .*nothing is left"):
        survey(list_sources(str(mixed), ""), 4000, 1.0)


def reasons(result: Survey) -> dict[str, str]:
    return {reject.name: reject.reason for reject in result.rejects}


def test_what_is_known_of_an_image(photos: Path) -> None:
    sky = read_image(photos / "photo 0.png").copy()
    sky[:, 40:] = 200
    Image.fromarray(sky).save(photos / "sky.png")
    images = {image.source.name: image for image in survey(list_sources(str(photos), "mine"), 48, 0.0).images}
    assert len(images) == 7
    for name, image in images.items():
        pixels = read_image(photos / name)
        luma = detail.luma_of(pixels)
        assert image.mode == ("L" if pixels.ndim == 2 else "RGB")
        assert np.array_equal(detail.unpack(image.detail, image.height, image.width), detail.detail_map(luma))
        assert image.flatness == pytest.approx(1 - detail.detail_map(luma).mean())
        assert image.sharpness == detail.sharpness(luma)
        assert image.digest == digest_of((photos / name).read_bytes())
    assert {image.mode for image in images.values()} == {"L", "RGB"}
    assert images["sky.png"].flatness == pytest.approx(3 / 9)


def test_flat_and_blurred_images_can_be_refused(photos: Path) -> None:
    Image.new("RGB", (64, 64), (9, 9, 9)).save(photos / "flat.png")
    with Image.open(photos / "photo 0.png") as image:
        image.filter(ImageFilter.GaussianBlur(6)).save(photos / "soft.png")
    sources = list_sources(str(photos), "")
    assert reasons(survey(sources, 48, 0.5)) == {}
    assert reasons(survey(sources, 48, 0.5, max_flatness=0.9, min_sharpness=10)) == {
        "flat.png": "flat",
        "soft.png": "blurred",
    }


@pytest.mark.parametrize("quality", [5, 10, 30, 60, 75, 95])
def test_the_quality_of_a_jpeg_file(quality: int, photos: Path) -> None:
    file = io.BytesIO()
    with Image.open(photos / "photo 0.png") as image:
        image.convert("RGB").save(file, "JPEG", quality=quality)
    assert abs(jpeg_quality(file.getvalue()) - quality) <= 1
    assert jpeg_quality((photos / "photo 0.png").read_bytes()) is None


def test_strongly_compressed_sources_are_refused(photos: Path) -> None:
    for quality in (40, 90):
        with Image.open(photos / "photo 1.png") as image:
            image.convert("RGB").save(photos / f"{quality}.jpg", quality=quality)
    result = survey(list_sources(str(photos), ""), 48, 0.5, min_quality=60)
    assert reasons(result) == {"40.jpg": "compressed"}
    assert {image.source.name: image.jpeg for image in result.images}["90.jpg"] == 90


def test_the_guard_looks_at_every_file_of_a_pair(tmp_path: Path) -> None:
    for number, path in enumerate(sample_photographs("val")[:3]):
        image = Image.open(path).convert("RGB").crop((0, 0, 256, 256))
        for folder, shown in (("clean", image), ("degraded", image.filter(ImageFilter.GaussianBlur(1)))):
            (tmp_path / folder).mkdir(exist_ok=True)
            shown.save(tmp_path / folder / f"{number}.png")
    (tmp_path / "tests").mkdir()
    shutil.copy(tmp_path / "degraded" / "1.png", tmp_path / "tests" / "secret.png")
    pairs = list_pairs(str(tmp_path / "clean"), str(tmp_path / "degraded"), "")
    result = survey(pairs, 48, 0.5, check=pair_check("deblur", {}), guard=load_guard(str(tmp_path / "tests")))
    assert reasons(result) == {"1.png": "leak"}


def test_what_is_withdrawn_goes_under_every_name(photos: Path) -> None:
    shutil.copy(photos / "photo 1.png", photos / "copy.png")
    (photos / "broken.png").write_text("not an image")
    digest = digest_of((photos / "photo 2.png").read_bytes())
    exclude = f"[photo 1.*, {digest}, broken*, photo 9.png, 'licence:CC*']"
    result = survey(list_sources(str(photos), "mine"), 48, 0.0, withdrawal=read_withdrawal(exclude))
    assert reasons(result) == dict.fromkeys(["photo 1.png", "copy.png", "photo 2.png", "broken.png"], "excluded")
    assert result.unmatched == ("photo 9.png", "licence:CC*")
    by_name = {reject.name: reject.detail for reject in result.rejects}
    assert by_name["copy.png"] == "a file of it is the same as of photo 1.png, which is excluded"
    assert by_name["photo 2.png"] == f"it matches exclude={digest}"
    with pytest.raises(UserError, match=r"none of 8 source images is left, such as broken\.png: it matches exclude="):
        survey(list_sources(str(photos), "CC0"), 48, 0.0, withdrawal=read_withdrawal(exclude))


def test_what_is_found_does_not_depend_on_which_row_ends_first(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a copy", "z copy"):
        shutil.copy(photos / "photo 1.png", photos / f"{name}.png")
    withdrawal, each_row = read_withdrawal("[photo 1.png, a copy.png]"), cluster.each_row
    results = []
    for backwards in (False, True):

        def ordered(*rows: object, backwards: bool = backwards, **how: object) -> list[dict]:
            return sorted(each_row(*rows, **how), key=lambda row: row["findings"][0].index, reverse=backwards)

        monkeypatch.setattr(cluster, "each_row", ordered)
        results.append(survey(list_sources(str(photos), ""), 48, 0.0, withdrawal=withdrawal))
    assert results[0].rejects == results[1].rejects


def test_withdrawal_from_a_list(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "gone.txt").write_text("# asked for by its owner\nmore/*\n")
    sources = list_sources(str(photos), "")
    (photos / "more" / "photo 5.png").unlink()
    result = survey(sources, 48, 0.0, withdrawal=read_withdrawal(str(tmp_path / "gone.txt")))
    assert reasons(result) == {"more/photo 5.png": "excluded"}


def test_leaks_are_refused_and_listed(tmp_path: Path) -> None:
    for path in sample_photographs("train")[:3] + sample_photographs("val")[:1]:
        with Image.open(path) as image:
            image.convert("L").crop((100, 100, 400, 380)).save(tmp_path / f"{path.stem}.jpg", quality=60)
    (shown,) = sample_photographs("val")[:1]
    guard = Guard(["test.png"], [guarded_view(detail.luma_of(read_image(shown)))])
    result = survey(list_sources(str(tmp_path), ""), 48, 0.0, guard=guard)
    (reject,) = result.rejects
    assert (reject.name, reject.reason) == (f"{shown.stem}.jpg", "leak")
    assert reject.detail == "it shows what the test image test.png shows"
    assert len(result.images) == 3


@pytest.fixture
def pairs(tmp_path: Path, photos: Path) -> tuple[str, str]:
    """Six clean images and a degraded one of each; two of them misfits, one of them damaged."""
    clean = tmp_path / "clean"
    bad = tmp_path / "bad"
    clean.mkdir()
    bad.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        pixels = read_image(path)
        Image.fromarray(pixels).save(clean / f"{number}.png")
        pixels = {1: pixels[:-1], 4: np.roll(pixels, 5, 0)}.get(number, pixels)
        Image.fromarray(pixels).save(bad / f"{number}.jpg", quality=90)
    (bad / "3.jpg").write_bytes((bad / "3.jpg").read_bytes()[:300])
    return str(clean), str(bad)


def test_pairs_are_checked(pairs: tuple[str, str]) -> None:
    sources = list_pairs(*pairs, "mine")
    result = survey(sources, 48, 0.5, check=pair_check("denoise", {}))
    assert reasons(result) == {"1.jpg": "size-mismatch", "4.jpg": "misaligned", "3.jpg": "truncated"}
    assert {image.source.name for image in result.images} == {"0.jpg", "2.jpg", "5.jpg"}
    for image in result.images:
        assert image.digest == digest_of(image.source.read(), image.source.read_others())
    excluded = survey(sources, 48, 0.6, check=pair_check("denoise", {}), withdrawal=read_withdrawal("clean/2.png"))
    assert reasons(excluded)["2.jpg"] == "excluded"


def test_a_degraded_file_that_is_withdrawn_leaves_its_neighbour(pairs: tuple[str, str]) -> None:
    clean, bad = map(Path, pairs)
    for folder, suffix in ((clean, "png"), (bad, "jpg")):
        for number in (1, 3, 4):
            (folder / f"{number}.{suffix}").unlink()
    shutil.copy(bad / "0.jpg", bad / "0_again.jpg")
    with Image.open(bad / "0.jpg") as image:
        image.save(bad / "0_other.jpg", quality=20)
    withdrawal = read_withdrawal("0.jpg")
    result = survey(list_pairs(*pairs, ""), 48, 0.0, check=pair_check("denoise", {}), withdrawal=withdrawal)
    assert reasons(result) == {"0.jpg": "excluded", "0_again.jpg": "excluded"}
    assert {image.source.name for image in result.images} == {"0_other.jpg", "2.jpg", "5.jpg"}


def test_windows_of_frames_are_checked(tmp_path: Path, photos: Path) -> None:
    pixels = read_image(photos / "photo 0.png")
    clip = tmp_path / "clip"
    clip.mkdir()
    for number in range(9):
        Image.fromarray(np.roll(pixels, number, 1)).save(clip / f"{number}.png")
    sources = list_frames(str(clip), 3, "").sources
    result = survey(sources, 48, 0.5, check=check_frames)
    assert reasons(result) == {}
    Image.fromarray(pixels[2:]).save(clip / "5.png")
    result = survey(sources, 48, 0.5, check=check_frames, withdrawal=read_withdrawal("8.png"))
    assert reasons(result) == {"4.png": "size-mismatch", "7.png": "excluded"}
    (image,) = result.images
    assert image.digest == digest_of(image.source.read(), image.source.read_others())


def test_many_images_share_rows(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "".join(f"{path}\n" for path in sorted(photos.rglob("*.png")))
    (tmp_path / "list.txt").write_text(line + "none.png\n")
    sources = list_sources(str(tmp_path / "list.txt"), "")
    monkeypatch.setattr(survey_module, "_ROWS", 2)
    seen = []
    result = survey(sources, 48, 0.5, lambda: seen.append(1))
    assert (len(seen), len(result.images), reasons(result)) == (7, 6, {"none.png": "unreadable"})
    assert all(any(image.source is source for source in sources) for image in result.images)
