"""What is measured while a model trains: the same figures however many workers share the pairs."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from kgt.config import preset
from kgt.errors import UserError
from kgt.model import KGT
from training import jobs
from training.config import read_configs
from training.plan import DataPlan, Job
from training.validation import SHOWN, ValidationSet, Validator, means

PAIRS = 6
"""Of the val split that `make_shards` makes."""


@pytest.fixture(scope="module")
def job(denoise_store: str) -> Job:
    (job,) = jobs.prepare(read_configs([f"store={denoise_store}", "task=denoise", "patch=32", "batch_size=4"], ""))
    return job


@pytest.fixture
def plan(job: Job) -> DataPlan:
    return job.plan


@pytest.fixture(scope="module")
def model() -> KGT:
    torch.manual_seed(0)
    model = KGT(preset("kgt-tiny", "denoise"))
    with torch.no_grad():  # a fresh model gives back what it is given
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model


def test_workers_share_the_pairs(plan: DataPlan, model: KGT) -> None:
    alone = list(ValidationSet(plan, 5).scores(model, 64))
    sets = [ValidationSet(plan, 5, rank=rank, workers=2) for rank in range(2)]
    shares = [list(share.scores(model, 64)) for share in sets]
    assert [(share.total, len(scores)) for share, scores in zip(sets, shares, strict=True)] == [(5, 3), (5, 2)]
    assert [shares[number % 2][number // 2] for number in range(5)] == alone
    assert len({psnr for psnr, _ in alone}) == 5
    assert means(alone)[0] == pytest.approx(np.mean([psnr for psnr, _ in alone]))


def test_noise_is_what_the_input_is_scored_as(plan: DataPlan, model: KGT) -> None:
    pairs = ValidationSet(plan, 100)
    assert pairs.total == PAIRS
    assert means(pairs.input_scores())[0] == pytest.approx(20 * math.log10(255 / 25), abs=0.3)


def test_weights_that_are_lost_score_nan_and_not_an_error(plan: DataPlan) -> None:
    lost = KGT(preset("kgt-tiny", "denoise"))
    with torch.no_grad():
        next(lost.parameters()).fill_(torch.nan)
    assert all(map(math.isnan, means(ValidationSet(plan, 2).scores(lost))))


def test_the_picture_shows_the_first_pairs(plan: DataPlan, model: KGT) -> None:
    picture = ValidationSet(plan, 100).picture(model)
    assert picture.shape == (48 * SHOWN, 3 * 48, 3)
    assert picture.dtype == np.uint8


def test_without_a_val_split_there_is_nothing(plan: DataPlan, model: KGT) -> None:
    (dataset,) = plan.datasets
    without = dataclasses.replace(dataset, validation=())
    empty = ValidationSet(dataclasses.replace(plan, datasets=(without,)), 10)
    assert empty.total == 0
    assert list(empty.scores(model)) == []
    assert empty.picture(model) is None


def test_a_damaged_shard_is_named(make_shards: Callable[..., str]) -> None:
    store = make_shards("denoise")
    (shard,) = Path(store.removeprefix("file://")).glob("denoise/pool/val-*.tar")
    shard.write_bytes(shard.read_bytes().replace(b"RIFF", b"RUFF"))
    (job,) = jobs.prepare(read_configs([f"store={store}", "task=denoise", "patch=32", "batch_size=4"], ""))
    with pytest.raises(UserError, match=rf"shard {re.escape(str(store))}/.*val-.* is damaged .*datasets.py verify"):
        ValidationSet(job.plan, 4)


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_a_stop_cuts_a_validation_short(job: Job, model: KGT) -> None:
    validator = Validator(job, torch.device("cpu"))
    asked = iter([False] * 7 + [True])
    assert validator.figures(model.state_dict(), model.state_dict(), lambda: next(asked)) is None
    found = validator.figures(model.state_dict(), KGT(job.model).state_dict(), lambda: False)
    assert found.keys() == {
        f"val_{raw}{name}{end}" for raw in ("", "raw_") for name in ("psnr", "ssim") for end in ("", "_k64")
    }
    restored = means(ValidationSet(job.plan, 100).scores(model))
    assert (found["val_raw_psnr"], found["val_raw_ssim"]) == restored
    assert found["val_psnr"] == pytest.approx(20.17, abs=0.3)  # a fresh model gives back what it is given
