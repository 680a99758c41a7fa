"""Copies of a file, one a day of the month."""

import time
from pathlib import Path

import pytest

from infra import backup

NOON = 1_793_016_000.0  # 26 October 2026, UTC


def test_a_month_of_copies_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    dump, store = tmp_path / "mlflow.dump", tmp_path / "backups"
    gmtime = time.gmtime
    for day in range(40):
        dump.write_text(f"of day {day}")
        with monkeypatch.context() as patch:
            patch.setattr(time, "gmtime", lambda day=day: gmtime(NOON + day * 86400))
            assert backup.main([f"file={dump}", f"store=file://{store}"]) == 0
    kept = sorted(path for path in store.iterdir() if path.is_file())
    assert [path.name for path in kept] == [f"mlflow-{day:02d}.dump" for day in range(1, 32)]
    assert {path.read_text() for path in kept} == {
        f"of day {day}" for day in (5, *range(10, 40))
    }  # November has no 31st
    assert capsys.readouterr().out.splitlines()[0] == f"file://{store}/mlflow-26.dump: 8 bytes"


def test_an_empty_dump_takes_no_copy_s_place(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = f"store=file://{tmp_path}/backups"
    (tmp_path / "empty").touch()
    for arguments, words in [
        ([f"file={tmp_path}/empty", store], "it is empty"),
        ([f"file={tmp_path}/none", store], "no such file"),
        ([store], "file and store are wanted"),
    ]:
        assert backup.main(arguments) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "backups").exists()
