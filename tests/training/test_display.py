"""What is said of a run where there is no terminal."""

import pytest

from training.display import Display

RECORD = {"step": 1, "loss": 0.05, "psnr": 25.0, "k": 128, "batch_size": 8, "memory": 900.4}
TIMES = {"wait": 0.1, "forward": 0.4, "backward": 0.3, "update": 0.1, "seconds": 1.0}


def test_a_line_says_where_the_time_goes_and_how_much_is_left(capsys: pytest.CaptureFixture) -> None:
    with Display({"sr": 3601}) as display:
        display.update("sr", {**RECORD, **TIMES})
    assert capsys.readouterr().err == (
        "sr: step 1/3601, loss 0.0500, 25.00 dB, k 128, "
        "8.0 pairs/s (data 10 %, forward 40 %, backward 30 %, optimizer 10 %), 900 MiB, 1:00:00 left\n"
    )


def test_the_last_validation_stays_in_sight(capsys: pytest.CaptureFixture) -> None:
    with Display({"sr": 3}) as display:
        display.update("sr", {**RECORD, **TIMES})
        display.update("sr", {**RECORD, **TIMES, "step": 2, "val_psnr": 31.5})
        display.update("sr", {**RECORD, **TIMES, "step": 3})
    first, last = capsys.readouterr().err.splitlines()
    assert "validation" not in first
    assert "25.00 dB, validation 31.50 dB at 2, k 128" in last
