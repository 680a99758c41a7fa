"""Recipes and the command line."""

from pathlib import Path

import pytest

from kgt.errors import UserError
from kgt.tasks import TASKS
from training.config import EXECUTION, RECIPES, RunConfig, deepspeed_config, read_configs
from training.losses import LOSSES


def read(*argv: str) -> list[RunConfig]:
    return read_configs(argv, "usage")


def test_every_task_has_a_recipe_and_every_recipe_is_read() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(TASKS)
    assert [config.task for config in read("task=all")] == list(TASKS)


def test_the_command_line_comes_after_the_recipe() -> None:
    (recipe,) = read("task=denoise")
    assert recipe.redraw
    (changed,) = read("task=denoise", "redraw=false", "lr=1e-3", "loss=l1")
    assert (changed.redraw, changed.lr, changed.loss) == (False, 1e-3, "l1")


def test_losses_have_the_names_that_the_settings_take() -> None:
    for name in LOSSES:
        assert read("task=sr", f"loss={name}")[0].loss == name


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["task=denoize"], "did you mean 'denoise'"),
        (["task=sr", "step=10"], "unknown setting 'step': did you mean 'steps'"),
        (["task=sr", "model=kgt-tinny"], "did you mean 'kgt-tiny'"),
        (["task=jpeg", "model=kgt-s"], "kgt-s.*not made for task 'jpeg'"),
        (["task=sr", "loss=l2"], "loss=l2"),
        (["task=sr", "steps=many"], "steps=many: a whole number"),
        (["task=sr", "steps=0"], "steps=0: 1 is the least"),
        (["task=sr", "topk=randon"], "topk=randon"),
        (["task=sr", "topk=2000"], "topk=2000"),
        (["task=sr", "batch_size=8", "workers=3"], "workers of 1, 2, 4, 8"),
        (["task=sr", "redraw=true"], "redraw=true is for denoise"),
        (["task=demosaic", "patch=33"], "even patch"),
        (["task=sr", "zero=3"], "stages 0, 1 and 2"),
        (["task=sr", "ema=1"], "ema=1"),
        (["task=sr", "steps"], "not of the form key=value"),
    ],
)
def test_mistakes_are_named_with_the_way_out(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(*argv)


def test_the_name_stands_for_what_comes_out(kgt_home: Path) -> None:
    (config,) = read("task=sr")
    assert config.out == f"file://{kgt_home}/runs/{config.name}"
    assert read("task=sr", "checkpoint_every=7", "max_failures=1")[0].name == config.name
    assert read("task=sr", "workers=1")[0].name == config.name
    assert read("task=sr", "lr=1e-5")[0].name != config.name
    assert read("task=jpeg")[0].name != config.name
    assert read("task=sr", "name=mine")[0].out == f"file://{kgt_home}/runs/mine"


def test_the_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("task=sr", "out=my runs/a=b")[0].out == f"file://{tmp_path}/my runs/a=b"
    assert read("task=sr", "out=s3://bucket/x")[0].out == "s3://bucket/x"


def test_settings_are_divided_into_what_comes_out_and_how_it_runs() -> None:
    (config,) = read("task=sr")
    assert not config.identity().keys() & EXECUTION
    assert config.identity().keys() | EXECUTION == vars(config).keys()


def test_deepspeed_is_told_the_share_of_a_worker() -> None:
    told = deepspeed_config(read("task=sr", "batch_size=12", "workers=3", "zero=1", "clip=0.5")[0])
    assert (told["train_batch_size"], told["train_micro_batch_size_per_gpu"]) == (12, 4)
    assert told["zero_optimization"]["stage"] == 1
    assert told["gradient_clipping"] == 0.5
