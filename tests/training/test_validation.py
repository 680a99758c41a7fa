"""What is measured while a model trains: the same figures however many workers share the pairs."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from kgt.config import preset
from kgt.model import KGT
from training import jobs
from training.config import read_configs
from training.plan import DataPlan
from training.validation import SHOWN, ValidationSet, means

PAIRS = 6
"""Of the val split that `make_shards` makes."""


@pytest.fixture(scope="module")
def plan(denoise_store: str) -> DataPlan:
    (job,) = jobs.prepare(read_configs([f"store={denoise_store}", "task=denoise", "patch=32", "batch_size=4"], ""))
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
    alone = ValidationSet(plan, 5).scores(model, 64)
    shares = [ValidationSet(plan, 5, rank=rank, workers=2).scores(model, 64) for rank in range(2)]
    assert [len(share) for share in shares] == [3, 2]
    assert [shares[number % 2][number // 2] for number in range(5)] == alone
    assert len({scores.psnr for scores in alone}) == 5
    assert means(alone)["psnr"] == pytest.approx(np.mean([scores.psnr for scores in alone]))


def test_noise_is_what_the_input_is_scored_as(plan: DataPlan, model: KGT) -> None:
    scores = ValidationSet(plan, 100).scores(model)
    assert len(scores) == PAIRS
    assert means(scores)["input_psnr"] == pytest.approx(20 * math.log10(255 / 25), abs=0.3)


def test_weights_that_are_lost_score_nan_and_not_an_error(plan: DataPlan) -> None:
    lost = KGT(preset("kgt-tiny", "denoise"))
    with torch.no_grad():
        next(lost.parameters()).fill_(torch.nan)
    scores = means(ValidationSet(plan, 2).scores(lost))
    assert math.isnan(scores["psnr"])
    assert math.isnan(scores["ssim"])
    assert scores["input_psnr"] > 19


def test_the_picture_shows_the_first_pairs(plan: DataPlan, model: KGT) -> None:
    picture = ValidationSet(plan, 100).picture(model)
    assert picture.shape == (48 * SHOWN, 3 * 48, 3)
    assert picture.dtype == np.uint8


def test_without_a_val_split_there_is_nothing(plan: DataPlan, model: KGT) -> None:
    (dataset,) = plan.datasets
    without = dataclasses.replace(dataset, validation=())
    empty = ValidationSet(dataclasses.replace(plan, datasets=(without,)), 10)
    assert empty.scores(model) == []
    assert empty.picture(model) is None
