"""Schedules that decide while the round goes on: by drift, and by the clock."""

import time

import pytest
import torch
from torch import nn

from localsgd import (
    ArgumentError,
    DriftTriggered,
    Every,
    EverySeconds,
    Hierarchical,
    LocalSGD,
    RoundSoFar,
    Sequence,
    Topology,
    replicate,
)


def pulled_apart(schedule, *, num_rows, first=0, steps=12, **options):
    """Worker k moves by its number at each step, along a line: the drift after n steps is known."""
    models = replicate(nn.Linear(1, 1, bias=False, dtype=torch.float64), num_rows)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1.0) for m in models]
    local = LocalSGD(models, optimizers, schedule, **options)
    syncs = []
    for _ in range(steps):
        for row, model in enumerate(models):
            model.weight.grad = torch.full((1, 1), float(first + row), dtype=torch.float64)
            local.step(row=row)
        if local.last_sync and local.last_sync.step == local.steps:
            syncs.append(local.steps)
    return syncs, local


def test_a_drift_triggered_round_ends_when_the_root_mean_square_reaches_the_threshold():
    # Workers 0 and 1 move by 0 and 1 a step: after n steps the root mean square distance is n / sqrt(2).
    syncs, _ = pulled_apart(DriftTriggered(2.0, 100), num_rows=2)
    assert syncs == [3, 6, 9, 12]
    syncs, _ = pulled_apart(DriftTriggered(2.2, 100), num_rows=2)
    assert syncs == [4, 8, 12]
    syncs, _ = pulled_apart(DriftTriggered(1e9, 5), num_rows=2)
    assert syncs == [5, 10]


def test_processes_decide_alike(processes):
    results = processes(_pulled_apart_by_rank, 3)
    expected, _ = pulled_apart(DriftTriggered(4.0, 100), num_rows=3)
    assert results == [expected] * 3
    assert len(expected) > 2


def _pulled_apart_by_rank():
    return pulled_apart(DriftTriggered(4.0, 100), num_rows=1, first=torch.distributed.get_rank())[0]


def test_workers_that_are_not_finite_trigger_the_sync_that_names_them():
    models = replicate(nn.Linear(1, 1), 2)
    local = LocalSGD(models, [torch.optim.SGD(m.parameters(), lr=1.0) for m in models], DriftTriggered(5.0, 100))
    models[1].weight.grad = torch.full((1, 1), torch.nan)
    models[0].weight.grad = torch.zeros(1, 1)
    with pytest.raises(ArithmeticError, match=r"worker 1 of 2: weight is not finite"):
        local.step()


def test_a_clock_ends_rounds_after_seconds():
    start = time.monotonic()
    _, local = pulled_apart(EverySeconds(0.02), num_rows=1, steps=0)
    while time.monotonic() - start < 0.3:
        local._models[0].weight.grad = torch.zeros(1, 1, dtype=torch.float64)
        local.step()
    # 15 rounds fit into the time; a loaded machine may stretch each, and steps take time of their own.
    assert 2 <= local.totals.rounds <= 15
    assert local.steps > local.totals.rounds


def by_the_clock():
    rank = torch.distributed.get_rank()
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(0)
    local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=1.0), EverySeconds(0.3))
    while local.totals.rounds < 1:
        # Worker 1 is much slower, and moves by -10 a step; worker 0 by -1.
        time.sleep(0.1 if rank else 0.01)
        model.weight.grad = torch.full((1, 1), 10.0 if rank else 1.0, dtype=torch.float64)
        local.step(num_samples=4)
    return local.steps, model.weight.item()


def test_the_mean_is_weighted_by_samples(processes):
    (fast, mean), (slow, other) = processes(by_the_clock, 2)
    assert fast > 2 * slow
    assert mean == other
    assert mean == pytest.approx(-(fast * fast + 10 * slow * slow) / (fast + slow), rel=1e-6)


def test_finishing_never_waits_for_a_process_that_thinks_it_is_done(processes):
    assert processes(_finish_unevenly, 2) == [True, True]


def _finish_unevenly():
    model = nn.Linear(1, 1)
    local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), EverySeconds(100.0))
    for _ in range(torch.distributed.get_rank()):
        model.weight.grad = torch.ones(1, 1)
        local.step()
    return local.finish() is not None


@pytest.mark.parametrize("schedule", [DriftTriggered(1.0, 4), EverySeconds(1.0)])
def test_they_stand_alone_or_at_the_last_level(schedule):
    with pytest.raises(ArgumentError, match="has to watch every step of the run; use it by itself"):
        Sequence([(4, Every(1)), (None, schedule)])
    models = replicate(nn.Linear(1, 1), 4)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    with pytest.raises(ArgumentError, match=r"level 1: .* can only stand at the last level"):
        LocalSGD(models, optimizers, Hierarchical([schedule, Every(8)]), topology=Topology((2, 2)))


def test_drift_at_the_last_level_over_blocks():
    # Blocks (0, 1) and (2, 3) average each other every second step; everyone at a drift of 4.
    syncs, local = pulled_apart(
        Hierarchical([Every(2), DriftTriggered(4.0, 100)]), num_rows=4, topology=Topology((2, 2)), steps=6
    )
    assert syncs == [2, 3, 4, 6]
    assert local.last_sync.level == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DriftTriggered(0.0, 4), r"threshold=0\.0 must be a finite number > 0; use Every\(1\)"),
        (lambda: DriftTriggered(1.0, 0), "max_period=0 must be >= 1"),
        (lambda: EverySeconds(-1), "seconds=-1 must be a finite number > 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_round_is_over_at_the_threshold_or_the_longest_period():
    schedule = DriftTriggered(2.0, 10)
    assert not schedule.is_over(RoundSoFar(steps=3, seconds=0, drift_norm=1.9))
    assert schedule.is_over(RoundSoFar(steps=3, seconds=0, drift_norm=2.0))
    assert schedule.is_over(RoundSoFar(steps=10, seconds=0, drift_norm=0.0))
