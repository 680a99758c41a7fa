"""Recipes and the command line."""

import re
from pathlib import Path

import pytest
import yaml

from kgt.errors import UserError
from kgt.tasks import TASKS
from training import config as config_module
from training.config import EXECUTION, RECIPES, RunConfig, loss_terms, read_configs
from training.deepspeed_config import deepspeed_config
from training.losses import LOSSES
from training.phases import Phase


def read(*argv: str) -> list[RunConfig]:
    return read_configs(argv, "usage")


@pytest.mark.parametrize("recipe", ["quick", "full"])
def test_a_recipe_is_read_for_every_task_and_all_of_it(recipe: str) -> None:
    parts = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    assert parts.keys() <= {"all", *TASKS}
    configs = read("task=all", f"recipe={recipe}")
    assert [config.task for config in configs] == list(TASKS)
    for config in configs:
        wanted = {**parts.get("all", {}), **parts.get(config.task, {})}
        assert {name: getattr(config, name) for name in wanted} == wanted


def test_the_quick_recipe_is_the_default() -> None:
    assert read("task=all") == read("task=all", "recipe=quick")
    assert all(config.model == "kgt-tiny" for config in read("task=all"))


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_the_full_recipe_is_of_the_published_scale(workers: int) -> None:
    """Restormer's steps for its patches and batches, SwinIR's for its halvings."""
    configs = read("task=all", "recipe=full", f"workers={workers}")
    by_task = {config.task: config for config in configs}
    assert all(300_000 <= config.steps <= 500_000 and config.lr == 2e-4 and config.ema == 0.999 for config in configs)
    assert [config.model for config in configs] == ["kgt-s" if config.task == "sr" else "kgt-u" for config in configs]
    assert by_task["denoise"].phases() == (
        Phase(0, 128, 64),
        Phase(92_000, 160, 40),
        Phase(156_000, 192, 32),
        Phase(204_000, 256, 16),
        Phase(240_000, 320, 8),
        Phase(276_000, 384, 8),
    )
    sr = by_task["sr"]
    assert sr.phases() == (Phase(0, 64, 32),)
    assert [round(sr.steps * at) for at in sr.lr_milestones] == [250_000, 400_000, 450_000, 475_000]


def test_a_full_recipe_is_cut_to_fewer_steps_with_all_its_phases() -> None:
    (config,) = read("task=deblur", "recipe=full", "steps=1000")
    assert [phase.start for phase in config.phases()] == [0, 307, 520, 680, 800, 920]
    (flat,) = read("task=deblur", "recipe=full", "patch=64", "batch_size=16")
    assert flat.phases() == (Phase(0, 64, 16),)


def test_the_command_line_comes_after_the_recipe() -> None:
    (recipe,) = read("task=denoise")
    assert recipe.redraw
    (changed,) = read("task=denoise", "redraw=false", "lr=1e-3", "loss=l1")
    assert (changed.redraw, changed.lr, changed.loss) == (False, 1e-3, "l1")


def test_losses_have_the_names_that_the_settings_take() -> None:
    assert tuple(LOSSES) == config_module.LOSSES
    for name in LOSSES:
        assert read("task=sr", f"loss={name}")[0].loss == name


@pytest.mark.parametrize(
    ("loss", "terms"),
    [
        ("l1", {"l1": 1.0}),
        ("charbonnier+0.05*fft", {"charbonnier": 1.0, "fft": 0.05}),
        (" 2 * l1 + 5e-2*fft ", {"l1": 2.0, "fft": 0.05}),
    ],
)
def test_a_loss_is_a_weighted_sum(loss: str, terms: dict[str, float]) -> None:
    assert loss_terms(loss) == terms


def test_a_fixed_k_may_be_said_to_be_fixed() -> None:
    assert read("task=sr", "topk=fixed:256") == read("task=sr", "topk=256")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["task=denoize"], "did you mean 'denoise'"),
        (["task=5"], "unknown task '5'"),
        (["task=sr", "step=10"], "unknown setting 'step': did you mean 'steps'"),
        (["task=sr", "model=kgt-tinny"], "did you mean 'kgt-tiny'"),
        (["task=jpeg", "model=kgt-s"], "kgt-s.*not made for task 'jpeg'"),
        (["task=sr", "loss=l2"], "unknown term 'l2': known: charbonnier, fft, l1"),
        (["task=sr", "loss=charbonier+0.1*fft"], "did you mean 'charbonnier'"),
        (["task=sr", "loss=l1+l1"], "each term stands once"),
        (["task=sr", "loss=0*l1"], "a weight above 0"),
        (["task=sr", "loss=1.2.3*l1"], "a sum of these"),
        (["task=sr", "loss=l1+"], "a sum of these"),
        (["task=sr", "recipe=ful"], "recipe=ful: did you mean 'full'"),
        (["task=sr", "optimizer=sgd"], "optimizer=sgd"),
        (["task=sr", "patch=small"], "patch=small: a whole number is wanted"),
        (["task=sr", "patch=[64,4]"], "8 is the least"),
        (["task=sr", "batch_size=0"], "batch_size=0: 1 is the least"),
        (["task=sr", "batch_size=true"], "batch_size=True: a whole number"),
        (["task=sr", "patch=[64,96]"], "patch=.64,96.: 0 patch_milestones divide a run into 1 phases"),
        (["task=sr", "patch=[64,96]", "patch_milestones=[1.5]"], "ascending fractions"),
        (["task=sr", "patch=[64,96,99]", "patch_milestones=[0.5,0.2]"], "ascending fractions"),
        (["task=demosaic", "patch=[32,33]", "patch_milestones=[0.5]"], "even patch"),
        (["task=sr", "batch_size=[8,6]", "patch_milestones=[0.5]", "workers=4"], "batch_size=6.*workers of 1, 2, 3, 6"),
        (["task=sr", "accumulate=3"], "a worker's 4 of batch_size=8.*accumulate of 1, 2, 4"),
        (["task=sr", "schedule=multistep"], "give some, as lr_milestones"),
        (["task=sr", "topk=fixed:0"], "topk=0"),
        (["task=sr", "topk=256", "topk_dense=true"], "topk_dense=true is for topk=random"),
        (["task=sr", "precision=fp16"], "fp16 is for GPUs .*bf16 or fp32"),
        (["task=sr", "offload=optimizer"], "give zero=1, 2 or 3"),
        (["task=sr", "offload=parameters", "zero=2"], "needs zero=3"),
        (["task=sr", "profile=5"], "write FIRST:LAST"),
        (["task=sr", "profile=5:4"], "write FIRST:LAST"),
        (["task=sr", "profile=0:4"], "write FIRST:LAST"),
        (["task=sr", "steps=9", "profile=8:10"], "profile=8:10: the run's last step is steps=9"),
        (["task=sr", "store=[a,b]", "version=[v000001]"], r"version=\[v000001\]: the run reads 2 datasets"),
        (["task=sr", "store=[a,b]", "version=[x,y,z]"], r"store=\[a,b\]: the run reads 3 datasets"),
        (["task=sr", "store=[a,b"], r"store=\[a,b: a list is written"),
        (["task=sr", "store=[]"], r"store=\[\]: a list is written"),
        (["task=sr", "store=[a,{b: 1}]"], "a list is written"),
        (["task=sr", "store=[a,b]", "weights=[1,2,3]"], r"weights=\[1, 2, 3\]: give one for each dataset.*2"),
        (["task=sr", "weights=[1,2]"], "give one for each dataset, of which there are 1"),
        (["task=sr", "store=[a,b]", "weights=[0,1]"], "whole numbers of 1 to 1000"),
        (["task=sr", "store=[a,b]", "weights=[1.5,1]"], r"weights=\[1.5,1\]: "),
        (["task=sr", "store=[a,s3://me:secret@b/c]"], "an address holds a password"),
        (["task=sr", "steps=many"], "steps=many: a whole number"),
        (["task=sr", "steps=0"], "steps=0: 1 is the least"),
        (["task=sr", "name=my run"], r"name=my run: letters, digits and \. _ - are wanted"),
        (["task=sr", "name=.."], r"name=\.\.: letters"),
        (["task=sr", "clip=.nan"], "clip=nan: a finite number is wanted"),
        (["task=sr", "lr=.inf"], "lr=inf: a finite number is wanted"),
        (["task=sr", "validate_k=64.5"], "validate_k=64.5: a number of 1 to 1024 is wanted"),
        (["task=sr", "validate_k=null"], "validate_k=None: a number of 1 to 1024 is wanted"),
        (["task=sr", "validate_k=[64,2000]"], "validate_k=.64, 2000.: a number of 1 to 1024 is wanted"),
        (["task=sr", "topk=randon"], "topk=randon"),
        (["task=sr", "topk=2000"], "topk=2000"),
        (["task=sr", "batch_size=8", "workers=3"], "workers of 1, 2, 4, 8"),
        (["task=sr", "workers=2", "min_workers=3"], "min_workers=3: workers=2 is the most"),
        (
            ["task=sr", "workers=4", "batch_size=8", "min_workers=2"],
            "min_workers=2: 3 workers cannot share batch_size=8",
        ),
        (["task=sr", "max_preemption_failures=-2"], "max_preemption_failures=-2: -1 is the least"),
        (["task=sr", "redraw=true"], "redraw=true is for denoise"),
        (["task=demosaic", "patch=33"], "even patch"),
        (["task=sr", "zero=4"], "stages 0, 1, 2 and 3"),
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
    execution = ["accumulate=2", "activation_checkpointing=true", "profile=1:2"]
    assert read("task=sr", *execution)[0].name == config.name
    assert read("task=jpeg", "recipe=full")[0].name.startswith("kgt-u-")
    assert read("task=all", "recipe=full")[0].name.startswith("kgt-full-")
    assert read("task=sr", "name=mine")[0].out == f"file://{kgt_home}/runs/mine"


def test_the_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("task=sr", "out=my runs/a=b")[0].out == f"file://{tmp_path}/my runs/a=b"
    assert read("task=sr", "out=s3://bucket/x")[0].out == "s3://bucket/x"


def test_settings_are_divided_into_what_comes_out_and_how_it_runs() -> None:
    (config,) = read("task=sr")
    assert not config.identity().keys() & EXECUTION
    assert config.identity().keys() | EXECUTION == vars(config).keys()
    assert read("task=sr", "store=[a,b]", "weights=[3,1]")[0].identity()["weights"] == [3, 1]


def test_what_may_change_from_start_to_start_is_in_the_docs(root: Path) -> None:
    words = (root / "docs" / "training.md").read_text().partition("from start to start:")[2].partition("All others")[0]
    assert set(re.findall("`([a-z_]+)`", words)) == EXECUTION - {"out"}


def test_deepspeed_is_told_the_share_of_a_worker() -> None:
    told = deepspeed_config(read("task=sr", "batch_size=12", "workers=3", "zero=1", "clip=0.5")[0])
    assert (told["train_batch_size"], told["train_micro_batch_size_per_gpu"]) == (12, 4)
    assert told["zero_optimization"]["stage"] == 1
    assert told["gradient_clipping"] == 0.5


def test_deepspeed_is_told_of_micro_steps_and_of_what_leaves_the_gpu() -> None:
    settings = ["batch_size=[24,12]", "patch=[32,48]", "patch_milestones=[0.5]", "workers=2", "accumulate=3"]
    told = deepspeed_config(read("task=sr", *settings, "zero=3", "offload=parameters", "gpus_per_worker=1")[0])
    assert (told["train_batch_size"], told["train_micro_batch_size_per_gpu"]) == (24, 4)
    assert told["gradient_accumulation_steps"] == 3
    assert told["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert told["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert (
        "offload_param" not in deepspeed_config(read("task=sr", "zero=2", "offload=optimizer")[0])["zero_optimization"]
    )
