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
        {"name": "rare", "for": "training", "gpus": "1 Y", "hour": 3.0},
    ],
}
MEASURED = {"device": "a CPU, 4 cores", "date": "2026-11-25", "rows": [{"task": "sr", "job, pairs/s": 400.0}]}


def test_a_million_pairs_cost_what_their_hours_cost() -> None:
    *_, row = costs.synthesis_table(PRICES, MEASURED)
    assert row == "| sr | 100 | 0.28 h, 1.00 / 0.50 |"  # 1000 pairs/s on ten cores


def test_a_run_costs_what_was_measured_of_it_and_nothing_is_made_up() -> None:
    runs = {"device": "a CPU, 4 cores", "date": "2026-11-26", "rows": [{"run": "a", "steps": 1000, "quiet": 20.0}]}
    seconds = {64: 0.5, 128: 2.0}
    steps = {
        "device": "a CPU, 2 cores",
        "date": "2026-11-25",
        "threads": 2,
        "rows": [
            {"model": "kgt-s", "input": f"{side}×{side}", "pass": of, "mode": "eager", "time": {"median": median}}
            for side, median in seconds.items()
            for of in ("inference", "training step")
        ],
    }
    *_, run, sr, others = costs.training_table(PRICES, runs, steps)
    assert run == "| `a`, 1,000 steps | 20.00 | 2.00 h, 7.20 / 3.60 | not measured | not measured |"
    pairs = 500_000 * 32
    assert f"| {pairs * 0.5 * 2 / 3600:,.2f} | {pairs * 0.5 * 2 / 3600 / 10:,.2f} h, " in sr
    assert sr.startswith("| `recipe=full`, `task=sr`: kgt-s, 500,000 steps, patches of 64 pixels |")
    assert others.endswith("| not measured | not measured | not measured |")


def test_a_run_with_rates_of_its_own_costs_its_hours(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    run = [f"prices={tmp_path / 'prices.json'}", "instance=gpu"]
    simple = ["--", "task=sr", "steps=3600", "batch_size=10"]
    phased = ["--", "task=sr", "steps=3600", "batch_size=[20,10]", "patch=[48,64]", "patch_milestones=[0.5]"]
    for given, hours in ((["pairs_per_second=5", *simple], 2.0), (["pairs_per_second=[10,5]", *phased], 2.0)):
        assert costs.main([*run, *given]) == 0
        assert f"on gpu: {hours:.2f} h, 4.00 / 1.00 USD on demand / spot\n" in capsys.readouterr().out
    assert costs.main([*run, "instance=rare", "pairs_per_second=5", *simple]) == 0
    assert "on rare: 2.00 h, 6.00 / none USD" in capsys.readouterr().out
    for wrong, words in [
        ([*run, *simple], "pairs_per_second is wanted"),
        ([*run, "pairs_per_second=fast", *simple], "pairs_per_second is wanted"),
        ([*run, "pairs_per_second=[1,2,3]", *phased], "sr has 2 phases, of patches of 48, 64 pixels"),
        ([*run, "instance=gpv", "pairs_per_second=5", *simple], "did you mean 'gpu'?"),
        ([*run, "pairs_per_second=5", "--", "stps=3"], "did you mean 'steps'?"),
        ([f"prices={tmp_path / 'none.json'}"], "cannot read"),
    ]:
        assert costs.main(wrong) == 2
        assert words in capsys.readouterr().err


def test_the_runbook_shows_the_present_tables(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert costs.main([]) == 0
    text = (root / "docs" / "operations.md").read_text()
    shown = text.partition("<!-- python infra/costs.py -->\n")[2].partition("<!-- end -->")[0]
    assert shown == capsys.readouterr().out, "put the output of `python infra/costs.py` into docs/operations.md"
