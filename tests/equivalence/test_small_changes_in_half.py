"""Parameters in half precision: what is too small for them is kept in the anchor, and adds up there."""

import pytest
import torch
from torch import nn

from localsgd import BlockMomentum, Every, LocalSGD, Outer, replicate
from localsgd.compression import ErrorFeedback, Float16, TopK

STEP = 2.0**-7  # from 1 to the next larger bfloat16


@pytest.mark.parametrize(
    "options",
    [
        {"compression": TopK(1.0)},
        {"compression": ErrorFeedback(Float16())},
        {"compression": TopK(1.0), "outer": BlockMomentum(0.0)},
        {"outer": BlockMomentum(0.0)},
        {"outer": Outer(torch.optim.SGD, lr=1.0)},
        {"measure_drift": True},
    ],
    ids=repr,
)
def test_half_a_step_of_the_mean_is_not_rounded_away_in_every_round(options):
    models = replicate(nn.Linear(1, 1, bias=False, dtype=torch.bfloat16), 2)
    with torch.no_grad():
        for model in models:
            model.weight.fill_(1.0)
    local = LocalSGD(models, [torch.optim.SGD(model.parameters(), lr=0.1) for model in models], Every(100), **options)
    found = []
    for _ in range(4):
        with torch.no_grad():
            models[0].weight.add_(STEP)
        local.sync()
        found.append([model.weight.item() for model in models])
    # The mean moves by half a step a round; rows hold it rounded, to the even one of two neighbours.
    assert found == [[1.0] * 2, [1 + STEP] * 2, [1 + 2 * STEP] * 2, [1 + 2 * STEP] * 2]


def two_rows(schedule, **options):
    """Two workers whose parameters are all 1, kept in their anchor by an outer optimizer that changes nothing."""
    models = replicate(nn.Linear(1, 1, dtype=torch.bfloat16), 2)
    add([*models[0].parameters(), *models[1].parameters()], 1.0, start=True)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    return models, LocalSGD(models, optimizers, schedule, outer=BlockMomentum(0.0), **options)


@torch.no_grad()
def add(parameters, change, *, start=False):
    for parameter in parameters:
        parameter.copy_((0 if start else parameter) + torch.tensor(change))


def values(models):
    return [parameter.item() for model in models for parameter in model.parameters()]


def test_it_adds_up_where_fragments_sync_in_turn():
    models, local = two_rows(Every(2), fragments=2)
    found = []
    for _ in range(4):
        add(models[0].parameters(), STEP)
        local.step()
        local.step()
        found.append(values(models))
    assert found == [[1.0] * 4, [1 + STEP] * 4, [1 + 2 * STEP] * 4, [1 + 2 * STEP] * 4]


def test_it_adds_up_where_rows_take_over_the_consensus_that_lands():
    models, local = two_rows(Every(2), overlap_steps=1, overlap_mixing=0.0)
    local.step()
    found = []
    for _ in range(4):
        add(models[0].parameters(), STEP)
        local.step()
        local.step()
        found.append(values(models))
    assert found == [[1.0] * 4, [1 + STEP] * 4, [1 + 2 * STEP] * 4, [1 + 2 * STEP] * 4]


def test_what_rows_have_not_lost_is_not_added_where_they_keep_their_progress():
    models, local = two_rows(Every(2), overlap_steps=1)
    local.step()
    add(models[0].parameters(), STEP)
    local.step()  # starts a sync: the mean is half a step above 1, more than a half-precision anchor could say
    for model in models:
        add(model.parameters(), -0.5)
    local.step()  # it lands: below 1 there are half steps, so that rows lose nothing
    assert values(models) == [0.5 + STEP / 2] * 4
    for _ in range(4):
        local.step()
    assert values(models) == [0.5 + STEP / 2] * 4


def test_where_a_sync_lands_rows_are_rounded_once():
    models, local = two_rows(Every(2), overlap_steps=1)
    local.step()
    add(models[0].parameters(), -(2.0**-16), start=True)
    add(models[1].parameters(), 2.0**-7, start=True)
    local.step()  # both lie 2^-8 + 2^-17 from their mean, which eight bits cannot say
    for model in models:
        add(model.parameters(), 1.0, start=True)
    local.step()  # 1 moves by a little more than half a step, up and down; down there are half steps
    assert values(models) == [1 + 2.0**-7] * 2 + [1 - 2.0**-8] * 2
