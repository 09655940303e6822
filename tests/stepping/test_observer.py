"""Schedules that look at the run: the learning rate and the loss on which all workers agree."""

import math

import pytest
import torch
from torch import nn

from localsgd import Decreasing, Hierarchical, LocalSGD, QuadraticRule, Topology, replicate


def train(schedule, rates, losses, *, num_rows=2, stop=None, state=None):
    """Train a line; ``losses`` are what is reported. Gives the steps of the syncs and the LocalSGD."""
    torch.manual_seed(0)
    models = replicate(nn.Linear(2, 1), num_rows)
    optimizers = [torch.optim.SGD(m.parameters(), lr=rates[0]) for m in models]
    local = LocalSGD(models, optimizers, schedule)
    if state is not None:
        local.load_state_dict(state)
    syncs = []
    for step in range(local.steps, stop or len(rates)):
        for row, model in enumerate(models):
            optimizers[row].param_groups[0]["lr"] = rates[step]
            model(torch.ones(1, 2)).sum().backward()
            local.observe(losses[step] + row)
            local.step(row=row)
            optimizers[row].zero_grad()
        if local.last_sync and local.last_sync.step == local.steps:
            syncs.append((local.steps, local.last_sync.train_loss))
    return syncs, local


def test_the_quadratic_rule_follows_the_rate_of_the_step_just_taken():
    rates = [0.1] * 7 + [0.05] * 20
    syncs, _ = train(QuadraticRule(2, 0.2), rates, [0.0] * 27)
    # (0.2 / 0.1)^2 = 4 steps; the round from 4 to 8 ends at the rate 0.05, for which the rule gives 16.
    assert [step for step, _ in syncs] == [4, 8, 24]


def test_the_decreasing_rule_follows_the_mean_loss_of_all_workers():
    losses = [4.0] * 8 + [1.0] * 20
    syncs, _ = train(Decreasing(8), [0.1] * 28, [loss - 0.5 for loss in losses])
    assert syncs[0] == (8, pytest.approx(4.0))
    # The loss stays at 4 in the first round, so the second has 8 steps too; then ceil(8 sqrt(1/4)) = 4.
    assert [step for step, _ in syncs] == [8, 16, 20, 24, 28]


def test_the_mean_is_over_rows_and_steps_since_the_last_sync():
    syncs, local = train(QuadraticRule(3, 0.1), [0.1] * 6, [1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    assert syncs == [(3, pytest.approx(2.5)), (6, pytest.approx(20.5))]
    assert local.sync().train_loss is None


def test_processes_with_different_losses_keep_one_schedule(processes):
    results = processes(_by_rank, 2)
    assert results[0] == results[1]
    assert len(results[0]) > 2


def _by_rank():
    losses = [4 * math.exp(-0.1 * step) + 3 * torch.distributed.get_rank() for step in range(30)]
    return train(Decreasing(8), [0.1] * 30, losses, num_rows=1)[0]


def test_a_resumed_run_remembers_losses_and_rates():
    rates, losses = [0.1] * 30, [4 * math.exp(-0.1 * step) for step in range(30)]
    unbroken, _ = train(Decreasing(8), rates, losses)
    early, first = train(Decreasing(8), rates, losses, stop=11)
    late, _ = train(Decreasing(8), rates, losses, state=first.state_dict())
    assert early + late == unbroken


def test_each_level_tells_the_mean_loss_since_its_own_last_sync():
    models = replicate(nn.Linear(2, 1), 4)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    local = LocalSGD(models, optimizers, Hierarchical([2, 2]), topology=Topology((2, 2)))
    found = []
    for step in range(1, 9):
        local.observe(float(step**2))
        local.step()
        if step % 2 == 0:
            found.append((local.last_sync.level, local.last_sync.train_loss))
    assert found == [(1, 2.5), (2, 7.5), (1, 30.5), (2, 43.5)]
