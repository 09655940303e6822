"""Guarantee 1: when syncs happen, and what never shifts them."""

import pytest
import torch

from localsgd import ArgumentError, Every, LocalSGD, Never, PostLocal, StateError, replicate
from tests.equivalence.plain import OPTIMIZERS, batches, loss_of, perceptron
from tests.equivalence.running import train_rows


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Every(1), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (Every(3), [3, 6, 9, 10]),
        (Every(10), [10]),
        (Every(11), [10]),
        (Never(), [10]),
        (PostLocal(4, 3), [1, 2, 3, 4, 7, 10]),
        (PostLocal(4, 4), [1, 2, 3, 4, 8, 10]),
        (PostLocal(0, 4), [4, 8, 10]),
    ],
)
def test_the_log_holds_the_schedules_syncs_and_the_flush(schedule, expected):
    _, local, log = train_rows(perceptron(), OPTIMIZERS[1], batches(10, 2), schedule)
    assert [step for step, _, _ in log] == expected
    assert local.totals.rounds == len(expected)
    assert local.steps == 10


def test_a_manual_sync_does_not_shift_the_schedule():
    model = perceptron()
    local = LocalSGD(model, OPTIMIZERS[0](model.parameters()), Every(4))
    steps = []
    for step, (batch,) in enumerate(batches(9, 1), start=1):
        loss_of(model, batch).backward()
        local.step()
        if step == 2:
            assert local.sync().kind == "manual"
        steps.append(local.last_sync.step if local.last_sync else 0)
    assert steps == [0, 2, 2, 4, 4, 4, 4, 8, 8]


def test_rows_step_in_order_and_the_clock_ticks_after_the_last():
    models = replicate(perceptron(), 3)
    local = LocalSGD(models, [OPTIMIZERS[0](m.parameters()) for m in models], Every(1))
    for model in models:
        loss_of(model, batches(1, 1)[0][0]).backward()
    local.step(row=0)
    assert local.steps == 0
    with pytest.raises(ArgumentError, match="row=0 is out of turn: row 1 of 3 has to step next"):
        local.step(row=0)
    with pytest.raises(ArgumentError, match="row=None is out of turn"):
        local.step()
    for call in (local.sync, local.finish, local.state_dict, lambda: local.averaged().__enter__()):
        with pytest.raises(StateError, match="came between the rows of one step; row 1 has to step first"):
            call()
    local.step(row=1)
    local.step(row=2)
    assert (local.steps, local.totals.rounds) == (1, 1)


def test_all_rows_at_once_equal_one_row_after_another():
    data = batches(6, 3)
    together, apart = replicate(perceptron(), 3), None
    optimizers = [OPTIMIZERS[1](m.parameters()) for m in together]
    local = LocalSGD(together, optimizers, PostLocal(2, 2))
    for row in data:
        for model, batch in zip(together, row, strict=True):
            loss_of(model, batch).backward()
        local.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
    apart, _, _ = train_rows(perceptron(), OPTIMIZERS[1], data, PostLocal(2, 2))
    for ours, theirs in zip(together[2].parameters(), apart[2].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_bytes_are_those_of_a_ring_over_all_workers():
    models, local, log = train_rows(perceptron(), OPTIMIZERS[0], batches(4, 4), Every(2), buffers="local")
    # Six tensors in float32, each rounded up to 16 elements, and 16 slots; each worker sends 2 * 3/4 of that.
    sizes = {id(p): p.numel() for p in models[0].parameters() if p.requires_grad}.values()
    elements = sum(-(-size // 16) * 16 for size in sizes) + 16
    assert [size for _, _, size in log] == [elements * 4 * 2 * 3 // 4] * 2
    assert local.totals.bytes_sent == sum(size for _, _, size in log)
    assert local.totals.wire_bytes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": 8}, r"schedule=8 is no schedule; for example pass localsgd\.Every\(8\)"),
        ({"buffers": "averag"}, "buffers='averag' is not known; did you mean 'average'"),
        ({"non_finite": "ignore"}, "non_finite='ignore' is not known"),
        ({"non_finite": "exclude", "buffers": "broadcast"}, "non_finite='exclude' cannot be combined with buffers="),
        ({"clip_norm": 0.0}, r"clip_norm=0\.0 must be a finite number > 0; use None"),
        (
            {"model": [perceptron(), perceptron()]},
            "optimizer has 1 entries for 2 rows; construct one optimizer a model",
        ),
        ({"model": [1]}, r"model=1 must be an nn\.Module"),
        ({"optimizer": [1]}, r"optimizer=1 must be a torch\.optim\.Optimizer"),
        ({"model": perceptron()}, "optimizer of row 0 steps trainable tensors of shapes .* would never be averaged"),
    ],
)
def test_bad_arguments_are_refused_at_construction(change, message):
    model = perceptron()
    arguments = {"model": model, "optimizer": OPTIMIZERS[0](model.parameters()), "schedule": Every(2)} | change
    with pytest.raises(ArgumentError, match=message):
        LocalSGD(**arguments)


def test_a_level_that_does_not_exist_is_refused():
    model = perceptron()
    local = LocalSGD(model, OPTIMIZERS[0](model.parameters()), Every(2))
    with pytest.raises(ArgumentError, match=r"level=2 must be in 1\.\.1"):
        local.sync(level=2)


def test_closures_and_several_rows_or_clipping_do_not_mix():
    models = replicate(perceptron(), 2)
    local = LocalSGD(models, [OPTIMIZERS[0](m.parameters()) for m in models], Every(2))
    with pytest.raises(ArgumentError, match="closure cannot be combined with several rows"):
        local.step(lambda: 0.0)
    model = perceptron()
    local = LocalSGD(model, OPTIMIZERS[0](model.parameters()), Every(2), clip_norm=1.0)
    with pytest.raises(ArgumentError, match="clip_norm cannot be combined with a closure"):
        local.step(lambda: 0.0)


def test_a_stop_is_agreed_at_once_in_one_process():
    model = perceptron()
    local = LocalSGD(model, OPTIMIZERS[0](model.parameters()), Every(2))
    assert not local.stop_requested
    local.request_stop()
    assert local.stop_requested
