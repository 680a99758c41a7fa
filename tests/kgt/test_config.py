import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.config import PRESETS, RANDOM_TOPK, KGTConfig, neighbours, preset
from kgt.errors import UserError
from kgt.tasks import TASKS

SMALL = KGTConfig("u", 16, (1, 1), (1, 2), window=16)


@pytest.mark.parametrize("task", TASKS)
def test_presets_fit_their_tasks_and_survive_json(task: str) -> None:
    scales = (2, 3, 4) if task == "sr" else (1,)
    for name in ("kgt-tiny", "kgt-s" if task == "sr" else "kgt-u"):
        for scale in scales:
            config = preset(name, task, scale)
            assert (config.in_channels, config.out_channels) == TASKS[task].channels
            assert (config.shape, config.scale) == (TASKS[task].shape, scale)
            assert KGTConfig.from_dict(config.to_dict()) == config


def test_baselines_are_those_of_the_tasks() -> None:
    found = {task: preset("kgt-tiny", task, 2 if task == "sr" else 1).baseline for task in TASKS}
    assert found == dict.fromkeys(TASKS, "input") | {"sr": "bicubic", "demosaic": "malvar"}


@pytest.mark.parametrize(
    ("name", "task", "scale", "words"),
    [
        ("kgt-tny", "jpeg", 1, "did you mean 'kgt-tiny'"),
        ("resnet", "jpeg", 1, ", ".join(PRESETS)),
        ("kgt-s", "denoise", 1, "choose kgt-tiny or kgt-u"),
        ("kgt-u", "sr", 2, "choose kgt-b or kgt-s or kgt-tiny"),
        ("kgt-s", "sr", 1, "choose 2, 3 or 4"),
        ("kgt-tiny", "jpeg", 2, "leave it at 1"),
        ("kgt-tiny", "denois", 1, "did you mean 'denoise'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(name: str, task: str, scale: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        preset(name, task, scale)


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dim": 16.0},
        {"dim": True},
        {"dim": 17},
        {"heads": (3, 2)},
        {"heads": (1,)},
        {"layers": ()},
        {"layers": (1,), "heads": (1,)},
        {"layers": "11"},
        {"window": 1},
        {"topk": 0},
        {"shape": "v"},
        {"similarity": ["dot"]},
        {"scale": 2},
        {"scale": 2, "baseline": "bicubic"},
        {"baseline": "malvar"},
        {"out_channels": 1},
    ],
)
def test_an_impossible_setting_is_named(change: dict) -> None:
    with pytest.raises(UserError, match=f"model setting {'|'.join([*change, 'scale', 'baseline', 'layers'])}"):
        KGTConfig.from_dict(SMALL.to_dict() | change)


def test_an_unknown_or_missing_setting_is_named() -> None:
    values = SMALL.to_dict()
    with pytest.raises(UserError, match=r"unknown model setting 'windows': did you mean 'window'\?"):
        KGTConfig.from_dict(values | {"windows": 8})
    del values["dim"]
    with pytest.raises(UserError, match="'dim' is missing"):
        KGTConfig.from_dict(values)


@given(st.integers(1, 1024), st.integers(1, 4096))
def test_neighbours_keep_the_share_that_k_has_of_1024(k: int, nodes: int) -> None:
    scaled = neighbours(k, nodes)
    assert scaled >= 1
    assert scaled == 1 or abs(scaled - k * nodes / 1024) <= 0.5
    assert neighbours(k, 1024) == k


def test_training_never_keeps_every_node() -> None:
    assert all(neighbours(k, 256) < 256 for k in RANDOM_TOPK)
