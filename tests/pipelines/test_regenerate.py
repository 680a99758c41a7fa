"""The next version: fresh in all or part, compared with the live one, finished after a kill, true to withdrawals."""

import dataclasses
import re
from pathlib import Path

import pytest

from kgt.errors import UserError
from kgt.imaging import read_image, write_image
from pipelines import factory, regenerate, rounds, synthesize, versions
from pipelines.acceptance import accept, check_counts
from pipelines.job_options import Options, RenewalOptions
from pipelines.storage import Store
from tests.pipelines.runs import arguments, contents

pytestmark = pytest.mark.usefixtures("ray_local")


def test_regenerate(photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    asked = arguments(photos, file_store, "task=denoise")
    assert regenerate.main(asked) == 0
    first = versions.current(file_store, "denoise")
    capsys.readouterr()
    assert regenerate.main([*asked, "only_if_changed=true"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert regenerate.main([*asked, "keep=2"]) == 0
    second = versions.current(file_store, "denoise")
    assert (second.version, second.epoch) == ("v000002", 2)
    assert second.split("val") == first.split("val")
    assert not {s.name for s in second.split("train")} & {s.name for s in first.split("train")}
    assert regenerate.main([*asked, "keep=2"]) == 0
    assert versions.list_versions(file_store, "denoise") == ["v000002", "v000003"]
    kept = [versions.load(file_store, "denoise", version).sources for version in ("v000002", "v000003")]
    assert list(file_store.list("denoise/survey/")) == [s[key] for s in kept for key in ("images_key", "rejects_key")]
    (photos / "photo 0.png").unlink()
    capsys.readouterr()
    assert regenerate.main([*asked, "only_if_changed=true", "keep=2"]) == 2
    assert re.search(r"denoise: the next version would have \d+ train pairs.*max_shrink=0\.", capsys.readouterr().err)
    assert versions.current(file_store, "denoise").version == "v000003"
    assert regenerate.main([*asked, "only_if_changed=true", "keep=2", "max_shrink=0.4"]) == 0
    assert versions.current(file_store, "denoise").sources["images"] == 5


def test_a_version_unlike_the_live_one_is_not_published(photos: Path, file_store: Store) -> None:
    asked = {"source": str(photos), "store": file_store.url, "task": "jpeg", "crop": 48, "crops": 3}
    factory.run(Options(**asked))
    live = versions.current(file_store, "jpeg")
    accept(file_store, live, live)
    for change, word in (({"input_psnr": 70.0}, "no chance"), ({"bytes": 9}, "9 bytes")):
        odd = live.statistics | {"train": live.statistics["train"] | change}
        with pytest.raises(UserError, match=f"{word}.*not published"):
            accept(file_store, live, dataclasses.replace(live, statistics=odd))
    pairs = {split: live.statistics[split]["pairs"] for split in ("train", "val")}
    check_counts(live, pairs, 0.0, same=True)
    check_counts(live, pairs | {"train": pairs["train"] - 1}, 0.5, same=False)
    with pytest.raises(UserError, match=r"would have \d+ train pairs, v000001 has"):
        check_counts(live, pairs | {"train": pairs["train"] + 1}, 1.0, same=True)
    with pytest.raises(UserError, match=r"if that is meant, give max_shrink="):
        check_counts(live, pairs | {"val": 0}, 0.5, same=False)
    factory.run(RenewalOptions(**asked))
    fresh = versions.current(file_store, "jpeg")
    file_store.put(fresh.key(fresh.shards[0]), file_store.get(fresh.key(fresh.shards[0]))[:-2000])
    with pytest.raises(UserError, match=r"was just made and is not right.*not published"):
        accept(file_store, live, fresh)


def test_a_part_of_the_shards_is_renewed(photos: Path, file_store: Store) -> None:
    asked = arguments(photos, file_store, "task=sr", "fraction=0.5")
    epochs = []
    for _ in range(3):
        assert regenerate.main(asked) == 0
        epochs.append([shard.epoch for shard in versions.current(file_store, "sr").split("train")])
    assert [sorted(each) for each in epochs] == [[1, 1, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]]


def test_a_share_cannot_be_renewed_where_a_source_was_added(
    photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(photos, file_store, "task=sr", "fraction=0.5")
    assert regenerate.main(asked) == 0
    write_image(photos / "new.png", 255 - read_image(photos / "photo 1.png"))
    assert regenerate.main(asked) == 0
    assert "sr: sources or settings changed, so all training shards are made anew" in capsys.readouterr().out


def test_a_round_that_was_killed_is_finished_not_begun_again(
    photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(photos, file_store, "task=[sr,jpeg]")
    assert synthesize.main(asked) == 0
    assert regenerate.main(asked) == 0
    after = contents(file_store)
    assert not any(key.startswith("rounds/") for key in after)
    identities = {task: versions.current(file_store, task).identity for task in ("sr", "jpeg")}
    # As a run leaves it that is killed when it has published sr alone.
    rounds.begin(file_store, identities, 1.0, {"sr": 1, "jpeg": 1})
    file_store.delete("jpeg/versions/v000002.json")
    file_store.delete("jpeg/CURRENT")
    capsys.readouterr()
    assert regenerate.main(asked) == 0
    assert "sr: nothing to do, version v000002 is current" in capsys.readouterr().out
    assert contents(file_store) == after
    assert regenerate.main(asked) == 0
    assert versions.current(file_store, "sr").version == versions.current(file_store, "jpeg").version == "v000003"


def test_a_damaged_note_of_a_round_is_named(file_store: Store) -> None:
    rounds.begin(file_store, {"sr": "x"}, 1.0, {"sr": 3})
    (key,) = file_store.list("rounds/")
    assert rounds.begin(file_store, {"sr": "x"}, 1.0, {"sr": 3}) == {"sr": 4}
    assert rounds.begin(file_store, {"sr": "x"}, 1.0, {"sr": 4}) == {"sr": 5}, "it was finished but for its end"
    for data in (b"[]", b'{"sr": 1e999}'):
        file_store.put(key, data)
        with pytest.raises(UserError, match=f"{key} is damaged: delete it"):
            rounds.begin(file_store, {"sr": "x"}, 1.0, {"sr": 3})


def test_what_was_withdrawn_does_not_come_back_by_itself(
    photos: Path, file_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(photos, file_store, "task=sr")
    assert synthesize.main([*asked, "exclude=photo 1.png"]) == 0
    capsys.readouterr()
    assert regenerate.main(asked) == 2
    assert (
        "sr: 1 images that v000001 left out (excluded, leak) are used, such as photo 1.png" in capsys.readouterr().err
    )
    assert regenerate.main([*asked, "exclude=photo 1.png"]) == 0
    assert synthesize.main(asked) == 0
    assert "such as photo 1.png" in capsys.readouterr().out
    live = versions.current(file_store, "sr")
    assert live.sources["images"] == 6
    for data, how in ((b'{"reason": "leak"}\n', "is damaged"), (b"", "is gone")):
        file_store.put(live.sources["rejects_key"], data)
        if not data:
            file_store.delete(live.sources["rejects_key"])
        assert regenerate.main(asked) == 2
        (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert f"{live.sources['rejects_key']}, which says what {live.version} was made without, {how}" in said
