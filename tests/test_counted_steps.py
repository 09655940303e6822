"""Steps that somebody else takes on the rows, and LocalSGD only counts."""

import pytest
import torch

from localsgd import ArgumentError, Every, LocalSGD, Never, replicate
from localsgd.errors import StateError
from localsgd.schedules import DriftTriggered


def make(schedule, **options):
    models = replicate(torch.nn.Linear(2, 1, bias=False), 2)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    return models, LocalSGD(models, optimizers, schedule, one_step_rounds="parameters", **options)


def move(models):
    with torch.no_grad():
        for row, model in enumerate(models):
            model.weight.fill_(float(row))


def test_counted_steps_end_rounds_as_steps_taken_do():
    models, local = make(Every(3))
    move(models)
    local.stepper.count(2)
    assert (local.steps, local.next_sync, local.last_sync) == (2, 3, None)
    local.stepper.count(1)
    assert (local.steps, local.next_sync, local.last_sync.step) == (3, 6, 3)
    assert [model.weight.tolist() for model in models] == [[[0.5, 0.5]]] * 2
    local.stepper.count(3)
    assert (local.steps, local.totals.rounds) == (6, 2)


def test_no_sync_is_missed():
    _, local = make(Every(3))
    with pytest.raises(ArgumentError, match="num_steps=4 after step 0 would miss the end of the round after step 3"):
        local.stepper.count(4)
    with pytest.raises(ArgumentError, match="num_steps=0 must be >= 1"):
        local.stepper.count(0)
    _, local = make(Never())
    local.stepper.count(1000)
    assert local.steps == 1000


def test_a_schedule_that_watches_is_asked_after_every_step():
    models, local = make(DriftTriggered(threshold=0.1, max_period=10))
    with pytest.raises(ArgumentError, match="num_steps=2 after step 0 would miss"):
        local.stepper.count(2)
    move(models)
    local.stepper.count(1)
    assert local.last_sync.step == 1


def test_a_step_that_averages_gradients_cannot_be_taken_by_somebody_else():
    models = replicate(torch.nn.Linear(2, 1), 2)
    local = LocalSGD(models, [torch.optim.SGD(model.parameters(), lr=0.1) for model in models], Every(1))
    assert local.stepper.averages_gradients
    with pytest.raises(StateError, match="averages gradients first; take it with step"):
        local.stepper.count(1)


def test_nothing_is_counted_between_the_rows_of_a_step():
    models, local = make(Every(3))
    models[0](torch.ones(1, 2)).sum().backward()
    local.step(row=0)
    with pytest.raises(StateError, match="between the rows of one step"):
        local.stepper.count(1)


def take_rounds(way, num_steps=3):
    """Rounds of one step on two rows, whose gradients are 1 and 3: by LocalSGD, or by hand and counted."""
    models = replicate(torch.nn.Linear(2, 1, bias=False), 2)
    with torch.no_grad():
        models[0].weight.zero_()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    local = LocalSGD(models, optimizers, Every(1), measure_drift=True)
    found, gradients = torch.zeros(2), local.stepper.gradients

    def step_all():
        gradients.load_rows()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    for step in range(num_steps):
        for row, model in enumerate(models):
            model.weight.grad = torch.full_like(model.weight, 1.0 + 2.0 * row)
        if way == "row by row" or step == 0:
            local.step()
            continue
        gradients.stage_rows(found)
        if way == "together":
            local.stepper.count_round(step_all)
        else:
            gradients.settle()
            step_all()
            local.stepper.count_round(is_last=step == num_steps - 1)
    assert not found.any()
    return [model.weight.tolist() for model in models], local


@pytest.mark.parametrize("way", ["together", "averaged"])
def test_rounds_counted_are_those_that_were_stepped(way):
    expected, reference = take_rounds("row by row")
    weights, local = take_rounds(way)
    assert weights == expected
    untimed = [vars(each.last_sync) | {"seconds": 0.0, "seconds_waited": 0.0} for each in (local, reference)]
    assert untimed[0] == untimed[1]
    assert (local.steps, local.totals.rounds, local.totals.bytes_sent) == (3, 3, reference.totals.bytes_sent)
    anchors = [each.state_dict()["anchors"][0].tolist() for each in (local, reference)]
    assert anchors[0] == anchors[1]


@pytest.mark.parametrize("what", ["gradient", "buffer"])
@pytest.mark.parametrize("buffers", ["average", "local"])
def test_staging_flags_the_row_that_is_not_finite_and_changes_no_buffer(what, buffers):
    models = replicate(torch.nn.BatchNorm1d(3), 2)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    local = LocalSGD(models, optimizers, Every(1), buffers=buffers)
    for model in models:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    broken = models[1].weight.grad if what == "gradient" else models[1].running_var
    broken[2] = float("inf")
    before = [buffer.clone() for model in models for buffer in model.buffers()]
    found = torch.zeros(2)
    local.stepper.gradients.stage_rows(found)
    # Statistics that stay with their worker do not enter the mean.
    assert found.tolist() == [0.0, 0.0 if (what, buffers) == ("buffer", "local") else 1.0]
    assert all(map(torch.equal, before, [buffer for model in models for buffer in model.buffers()]))


def test_a_round_that_averages_no_gradients_is_not_counted_as_one_that_does():
    _, local = make(Every(3))
    with pytest.raises(StateError, match=r"averages no gradients; use count\(\)"):
        local.stepper.count_round()
