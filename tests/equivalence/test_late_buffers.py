"""Module buffers where syncs land late or go by fragments: each policy does what it does elsewhere."""

import math

import pytest
import torch
from torch import nn

from localsgd import Every, LocalSGD, replicate

EXPECTED = {"average": [2.0, 2.0, 2.0], "broadcast": [1.0, 1.0, 1.0], "local": [1.0, 2.0, 3.0]}


def statistics_1_2_3(first=0, num_rows=3, **options):
    """Workers 0, 1 and 2, whose running means are 1, 2 and 3 when a round of two steps begins."""
    models = replicate(nn.BatchNorm1d(1), num_rows)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    local = LocalSGD(models, optimizers, Every(2), **options)
    for row, model in enumerate(models):
        model.running_mean.fill_(first + row + 1.0)
    return models, local


def means(models):
    return [model.running_mean.item() for model in models]


def by_process(options):
    models, local = statistics_1_2_3(torch.distributed.get_rank(), 1, **options)
    for _ in range(3):
        local.step()
    return means(models)[0]


LATE = [{"overlap_steps": 1, "overlap_mixing": 0.0}, {"overlap_steps": 1}, {"fragments": 2}]


@pytest.mark.parametrize("options", LATE, ids=str)
@pytest.mark.parametrize("policy", EXPECTED)
def test_rows_get_the_mean_or_worker_zeros_or_keep_their_own(policy, options):
    models, local = statistics_1_2_3(buffers=policy, **options)
    local.step()
    assert means(models) == [1.0, 2.0, 3.0], "buffers go with the end of the round, whatever fragment comes before"
    local.step()
    local.step()
    assert means(models) == pytest.approx(EXPECTED[policy])


@pytest.mark.parametrize("options", LATE, ids=str)
@pytest.mark.parametrize("policy", EXPECTED)
def test_processes_get_the_same(policy, options, processes):
    assert processes(by_process, 3, {"buffers": policy} | options) == pytest.approx(EXPECTED[policy])


def test_the_mean_is_over_those_that_were_not_left_out():
    models, local = statistics_1_2_3(overlap_steps=1, overlap_mixing=0.0, non_finite="exclude")
    local.step()
    with torch.no_grad():
        models[2].weight.fill_(math.nan)
    local.step()
    local.step()
    assert means(models) == pytest.approx([1.5] * 3)
    assert [model.weight.item() for model in models] == [1.0] * 3
