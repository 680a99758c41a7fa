"""What promotion refuses in one line, before anything is done."""

from pathlib import Path

import pytest

from training import promote

IMAGES = "images=sample"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://mlflow", "postgresql+psycopg://u@127.0.0.1:9/mlflow"])
def test_a_server_s_models_are_not_promoted_under_a_lock_of_this_machine(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for asked in (IMAGES, "rollback=true"):
        assert promote.main(["task=denoise", asked]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "MLFLOW_TRACKING_URI is a server" in line
        assert "store=s3://" in line


def test_mistakes_are_told_before_anything_is_done(
    tmp_path: Path, kgt_home: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for arguments, words in [
        (["task=dnoise", IMAGES], "unknown task 'dnoise': did you mean 'denoise'?"),
        ([], "name the images"),
        ([f"images={tmp_path / 'empty'}"], "no image there"),
        ([f"images={tmp_path / 'nowhere'}"], "no such folder"),
        ([IMAGES, "tasks.denoise.sigm=3"], "did you mean 'sigma'?"),
        ([IMAGES, "confidence=95"], "confidence=95.0: a share from 0.5 to below 1 is wanted"),
        ([IMAGES, "into=kgt/prod"], "into=kgt/prod: write letters, digits and dashes"),
        ([IMAGES, f"report={tmp_path / 'file' / 'report.json'}"], "cannot write report"),
    ]:
        assert promote.main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert words in line
    assert not list(kgt_home.iterdir())
