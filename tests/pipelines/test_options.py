"""Command lines: what is typed arrives as it was meant, and mistakes are named."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.errors import UserError
from kgt.tasks import TASKS
from pipelines.options import about, expand_tasks, parse


@dataclass
class Optimizer:
    rate: float = 1e-3
    log: str = ""


@dataclass
class Schema:
    task: Any = "all"
    source: str = "sample"
    out: str | None = field(default=None, metadata=about("a folder"))
    steps: int = 10
    limit: int | None = None
    fast: bool = False
    mode: Literal["gloo", "nccl"] = "gloo"
    optimizer: Optimizer = field(default_factory=Optimizer)
    engine: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)


def of(*argv: str) -> Schema:
    return parse(Schema, argv, "usage")


def test_defaults() -> None:
    assert of() == Schema()


def test_types_are_those_of_the_schema() -> None:
    got = of(
        "steps=3", "limit=4", "fast=true", "optimizer.rate=1e-4", "mode=nccl", "engine.zero.stage=2", "task=[sr,jpeg]"
    )
    assert (got.steps, got.limit, got.fast, got.mode) == (3, 4, True, "nccl")
    assert got.optimizer.rate == 1e-4
    assert got.engine == {"zero": {"stage": 2}}
    assert got.task == ["sr", "jpeg"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_is_everything_after_the_first_equals_sign(text: str) -> None:
    got = of(f"source={text}", f"out={text}", f"optimizer.log={text}")
    assert got.source == got.out == got.optimizer.log == text


@pytest.mark.parametrize("text", ["/a b, (c)=d/[e]", "${oc.env:HOME}", "null", "123", "{a: b", "~/x"])
def test_texts_are_never_interpreted(text: str) -> None:
    assert of(f"source={text}").source == text


def test_task_settings_are_checked_and_kept_as_written() -> None:
    got = of("tasks.jpeg.quality=[10,20]", "tasks.denoise.sigma={min: 0, max: 50}", "tasks.denoise.gray=true")
    assert got.tasks == {"jpeg": {"quality": [10, 20]}, "denoise": {"sigma": {"min": 0, "max": 50}, "gray": True}}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("stpes=3", "did you mean 'steps'"),
        ("optimizer.rte=3", "did you mean 'optimizer.rate'"),
        ("steps", "not of the form key=value"),
        ("steps=many", "steps=many: a whole number is wanted"),
        ("steps=1.5", "a whole number is wanted"),
        ("fast=perhaps", "true or false is wanted"),
        ("optimizer.rate=fast", "a number is wanted"),
        ("mode=glo", "did you mean 'gloo'"),
        ("task=[sr", "cannot be read"),
        ("tasks.jpg.quality=3", "did you mean 'jpeg'"),
        ("tasks.jpeg.qality=3", "did you mean 'quality'"),
        ("tasks.jpeg=3", "tasks.<task>.<setting>"),
        ("tasks.jpeg.quality.min=3", "tasks.<task>.<setting>"),
        ("tasks.jpeg.quality=[10", "is wanted"),
        ("tasks.jpeg.quality=1000", "out of range"),
    ],
)
def test_mistakes_are_named(argument: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        of(argument)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        of("--help")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in Schema.__dataclass_fields__)
    assert "a folder" in printed


def test_tasks() -> None:
    assert expand_tasks("all") == list(TASKS)
    assert expand_tasks("sr") == ["sr"]
    assert expand_tasks(["sr", "jpeg", "sr"]) == ["sr", "jpeg"]
    with pytest.raises(UserError, match="did you mean 'denoise'"):
        expand_tasks(["sr", "denoize"])
    with pytest.raises(UserError, match=r"task=\[sr,jpeg\]"):
        expand_tasks("sr,jpeg")
    with pytest.raises(UserError, match="task is empty"):
        expand_tasks([])
