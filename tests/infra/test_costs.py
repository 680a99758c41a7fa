"""The table of costs: its arithmetic, and that the runbook shows the present one."""

import json
from pathlib import Path

import pytest

from infra import costs

PRICES = {
    "currency": "USD",
    "place": "here",
    "date": "2026-11",
    "source": "invented",
    "instances": [
        {"name": "small", "for": "pipelines", "vcpus": 10, "hour": 3.6, "spot_hour": 1.8},
        {"name": "gpu", "for": "training", "gpus": "1 X", "hour": 2.0, "spot_hour": 0.5},
    ],
}
MEASURED = {"device": "a CPU, 4 cores", "date": "2026-11-25", "rows": [{"task": "sr", "job, pairs/s": 400.0}]}


def test_a_million_pairs_cost_what_their_hours_cost() -> None:
    *_, row = costs.synthesis_table(PRICES, MEASURED)
    assert row == "| sr | 100 | 0.28 h, 1.00 / 0.50 |"  # 1000 pairs/s on ten cores


def test_a_run_costs_its_hours(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    run = [f"prices={tmp_path / 'prices.json'}", "instance=gpu", "steps=3600", "batch_size=10"]
    assert costs.main([*run, "pairs_per_second=5"]) == 0
    assert capsys.readouterr().out == "3600 steps of 10 on gpu: 2.00 h, 4.00 / 1.00 USD on demand / spot\n"
    for wrong, words in [
        ([*run], "pairs_per_second is wanted"),
        ([*run, "instance=gpv"], "did you mean 'gpu'?"),
        ([f"prices={tmp_path / 'none.json'}"], "cannot read"),
    ]:
        assert costs.main(wrong) == 2
        assert words in capsys.readouterr().err


def test_the_runbook_shows_the_present_table(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert costs.main([]) == 0
    text = (root / "docs" / "operations.md").read_text()
    shown = text.partition("<!-- python infra/costs.py -->\n")[2].partition("<!-- end -->")[0]
    assert shown == capsys.readouterr().out
