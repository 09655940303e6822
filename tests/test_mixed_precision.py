"""GradScaler and half-precision parameters."""

import math

import pytest
import torch
from torch import nn

from localsgd import Every, LocalSGD, NonFiniteError, PostLocal, replicate
from tests.equivalence.plain import OPTIMIZERS, batches, loss_of, perceptron


def loss_with_overflow(model, batch, *, overflow):
    return loss_of(model, batch) * (math.inf if overflow else 1.0)


def train_scaled(schedule, data, *, overflow_at, rows=2):
    """Train with a scaler a row; ``overflow_at`` = (step, row) where the gradient overflows."""
    models = replicate(perceptron(), rows)
    optimizers = [OPTIMIZERS[1](m.parameters()) for m in models]
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in models]
    local = LocalSGD(models, optimizers, schedule)
    log = []
    for step, row in enumerate(data, start=1):
        for index, batch in enumerate(row):
            loss = loss_with_overflow(models[index], batch, overflow=(step, index) == overflow_at)
            scalers[index].scale(loss).backward()
            local.step(scaler=scalers[index], row=index)
        for index, scaler in enumerate(scalers):
            scaler.update()
            optimizers[index].zero_grad()
        if local.last_sync and local.last_sync.step == local.steps:
            log.append((local.steps, local.last_sync.kind))
    return models, scalers, log


def test_without_overflow_a_scaler_changes_nothing_but_rounding():
    data = batches(6, 2)
    scaled, _, log = train_scaled(PostLocal(2, 2), data, overflow_at=None)
    models = replicate(perceptron(), 2)
    optimizers = [OPTIMIZERS[1](m.parameters()) for m in models]
    local = LocalSGD(models, optimizers, PostLocal(2, 2))
    for row in data:
        for index, batch in enumerate(row):
            loss_of(models[index], batch).backward()
            local.step(row=index)
            optimizers[index].zero_grad()
    assert log == [(1, "gradients"), (2, "gradients"), (4, "parameters"), (6, "parameters")]
    for ours, theirs in zip(scaled[0].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", [Every(3), PostLocal(4, 3)], ids=str)
def test_a_step_skipped_on_one_worker_leaves_every_phase_as_it_was(schedule):
    data = batches(10, 2)
    _, scalers, log = train_scaled(schedule, data, overflow_at=(5, 1))
    _, _, undisturbed = train_scaled(schedule, data, overflow_at=None)
    assert log == undisturbed
    assert [scaler.get_scale() for scaler in scalers] == [8.0, 4.0]


def test_in_a_round_of_one_step_an_overflow_anywhere_skips_the_step_everywhere():
    data = batches(4, 2)
    before, _, _ = train_scaled(Every(1), data[:2], overflow_at=None)
    after, _, log = train_scaled(Every(1), data[:3], overflow_at=(3, 1))
    assert [step for step, _ in log] == [1, 2, 3]
    for ours, theirs in zip(after[0].parameters(), before[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(after[0].parameters(), after[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("schedule", [Every(3), Every(1), PostLocal(3, 2)], ids=str)
def test_processes_stay_in_phase_when_one_of_them_skips(schedule, processes):
    logs = processes(_skip_on_rank_one, 2, schedule, False)
    assert logs[0] == logs[1]
    assert processes(_skip_on_rank_one, 2, schedule, True) == logs


def _skip_on_rank_one(schedule, use_attach):
    rank = torch.distributed.get_rank()
    model = perceptron()
    optimizer = OPTIMIZERS[1](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    local = LocalSGD(model, optimizer, schedule)
    attachment = local.attach(scaler=scaler) if use_attach else None
    log = []
    for step, row in enumerate(batches(8, 2), start=1):
        loss = loss_with_overflow(model, row[rank], overflow=(step, rank) in {(2, 1), (5, 1)})
        scaler.scale(loss).backward()
        scaler.step(optimizer) if attachment else local.step(scaler=scaler)
        scaler.update()
        optimizer.zero_grad()
        log.append((local.steps, local.last_sync.step if local.last_sync else None))
    local.finish()
    return log, {name: tensor.clone() for name, tensor in model.state_dict().items()} and float(model[-1].weight.sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_averaged_in_float32(dtype):
    models = replicate(nn.Linear(3, 1, bias=False, dtype=dtype), 3)
    local = LocalSGD(models, [torch.optim.SGD(m.parameters(), lr=0.1) for m in models], Every(2))
    values = torch.tensor([[1.0, 2048.0, 0.1], [1.0, 2050.0, 0.2], [1.0, 2052.0, 0.4]], dtype=dtype)
    with torch.no_grad():
        for model, row in zip(models, values, strict=True):
            model.weight.copy_(row)
    local.sync()
    expected = values.float().mean(0).to(dtype)
    assert all(torch.equal(model.weight[0], expected) for model in models)


def test_period_one_works_with_bfloat16_parameters():
    models = replicate(perceptron(torch.bfloat16), 2)
    optimizers = [OPTIMIZERS[1](m.parameters()) for m in models]
    local = LocalSGD(models, optimizers, Every(1))
    for row in batches(3, 2, dtype=torch.bfloat16):
        for index, batch in enumerate(row):
            loss_of(models[index], batch).backward()
            local.step(row=index)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def mixed():
    """A part in bfloat16, BatchNorm in float32, a head in float64: three groups of rows."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3, dtype=torch.bfloat16), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=torch.float64))


def sync_mixed(num_rows, first):
    models = replicate(mixed(), num_rows)
    local = LocalSGD(models, [torch.optim.SGD(m.parameters(), lr=0.1) for m in models], Every(2))
    with torch.no_grad():
        for row, model in enumerate(models):
            for tensor in [*model.parameters(), model[1].running_mean]:
                tensor.fill_(float(2 * (first + row)))
    local.sync()
    return [[t.unique().tolist() for t in [*m.parameters(), m[1].running_mean]] for m in models]


def sync_mixed_by_rank():
    return sync_mixed(2, 2 * torch.distributed.get_rank())


def test_a_model_of_several_dtypes_is_averaged_whole(processes):
    assert sync_mixed(4, 0) == [[[3.0]] * 7] * 4
    assert processes(sync_mixed_by_rank, 2) == [[[[3.0]] * 7] * 2] * 2


def test_a_scaler_that_is_switched_off_excuses_no_gradient_that_is_not_finite():
    models = replicate(perceptron(), 2)
    optimizers = [OPTIMIZERS[1](model.parameters()) for model in models]
    local = LocalSGD(models, optimizers, Every(1))
    off = torch.amp.GradScaler("cpu", enabled=False)
    for index, batch in enumerate(batches(1, 2)[0]):
        off.scale(loss_with_overflow(models[index], batch, overflow=index == 1)).backward()
    with pytest.raises(NonFiniteError, match="worker 1 of 2: the gradient of"):
        local.step(scaler=off)
