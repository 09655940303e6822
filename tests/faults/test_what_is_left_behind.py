"""What goes wrong once does not spoil what comes after it: a bad worker, an interrupt, a refused state, odd defaults."""

import copy
import signal
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn

from localsgd import (
    ArgumentError,
    ErrorFeedback,
    Every,
    Hierarchical,
    Int8,
    LocalSGD,
    NonFiniteError,
    SyncError,
    Topology,
    replicate,
)

OWING = ErrorFeedback(Int8())


def build(num_workers, period, *, model=None, schedule=None, **options):
    torch.manual_seed(0)
    workers = replicate(model or nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), num_workers)
    optimizers = [torch.optim.SGD(worker.parameters(), lr=0.1) for worker in workers]
    return workers, optimizers, LocalSGD(workers, optimizers, schedule or Every(period), **options)


def step(workers, optimizers, local, *, bad=None):
    for row, worker in enumerate(workers):
        optimizers[row].zero_grad()
        inputs = torch.arange(32.0, device="cpu").view(8, 4).sin() + row
        worker(inputs).square().mean().backward()
        if row == bad:
            nn.init.constant_(worker[1].bias, float("nan"))
        local.step(row=row)


def test_the_drift_of_a_worker_that_was_left_out_does_not_stay_behind():
    batch_norm = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    parts = build(3, 2, model=batch_norm, non_finite="exclude", measure_drift=True)
    step(*parts)
    step(*parts, bad=1)
    assert parts[2].last_sync.finite_workers == 2
    for _ in range(2):
        step(*parts)
    assert parts[2].last_sync.finite_workers == 3
    assert all(worker[0].weight.any() for worker in parts[0])


def interrupt_a_landing(compression):
    (worker,), (optimizer,), local = build(1, 4, overlap_steps=2, compression=compression)
    rank = dist.get_rank()
    for _ in range(3):
        step([worker], [optimizer], local)
    if rank == 1:
        time.sleep(1.5)  # the other one waits for this one when its sync is to land
    for _ in range(2):
        step([worker], [optimizer], local)
    if rank == 0:
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            step([worker], [optimizer], local)
        signal.signal(signal.SIGALRM, before)
        under_way = len(local.state_dict()["in_flight"])
    else:
        step([worker], [optimizer], local)
        under_way = None
    for _ in range(6):
        step([worker], [optimizer], local)
    local.finish()
    parameters = nn.utils.parameters_to_vector(worker.parameters()).tolist()
    return under_way, parameters, local.totals.rounds, local.totals.wire_bytes


@pytest.mark.parametrize("compression", [None, OWING], ids=repr)
def test_an_interrupted_landing_lands_later(compression, processes):
    first, second = processes(interrupt_a_landing, 2, compression)
    assert first[0] == 1
    assert first[1:] == second[1:]


@pytest.mark.parametrize("lacks", ["residuals", "snapshots"])
def test_a_state_that_is_refused_leaves_what_is_under_way(lacks):
    parts = build(3, 4, compression=OWING, overlap_steps=2, fragments=2)
    for _ in range(5):
        step(*parts)
    local = parts[2]
    saved = copy.deepcopy(local.state_dict())
    step(*parts)
    before = copy.deepcopy(local.state_dict())
    with pytest.raises(ArgumentError, match=rf"state holds {lacks} of the workers \[7\], and this process needs "):
        local.load_state_dict(saved | {lacks: {7: saved[lacks][0]}})
    after = local.state_dict()
    assert before["in_flight"]
    assert [flight["step"] for flight in after["in_flight"]] == [flight["step"] for flight in before["in_flight"]]
    assert (after["next_fragment"], after["synced_at"]) == (before["next_fragment"], before["synced_at"])


@pytest.mark.parametrize("options", [{}, {"overlap_steps": 2}, {"overlap_steps": 2, "compression": OWING}], ids=str)
def test_the_default_device_may_be_another_one_than_that_of_the_model(options):
    workers, optimizers, local = build(2, 4, **options)
    with torch.device("meta"):
        for _ in range(7):
            step(workers, optimizers, local)
        local.finish()
    assert torch.equal(workers[0][1].weight, workers[1][1].weight)


def test_a_tensor_that_can_no_longer_be_told_is_not_named():
    parts = build(3, 4, overlap_steps=2, overlap_mixing=0.5)
    for number in range(5):
        step(*parts, bad=1 if number == 3 else None)
    with pytest.raises(ArithmeticError, match=r"worker 1 of 3: a parameter is not finite"):
        step(*parts)


@pytest.mark.parametrize("lacks", ["totals", "steps", "anchors", "in_flight", "next_syncs", "num_sums"])
def test_a_state_that_lacks_something_is_refused(lacks):
    parts = build(2, 4, compression=OWING, overlap_steps=2)
    saved = parts[2].state_dict()
    del saved[lacks]
    with pytest.raises(ArgumentError, match=rf"state lacks '{lacks}'; load all that state_dict\(\) returned"):
        parts[2].load_state_dict(saved)


def go_on_without_a_group():
    parts = build(1, 4)
    step(*parts)
    dist.destroy_process_group()
    try:
        with pytest.raises(SyncError, match="an all-reduce between 2 processes failed"):
            parts[2].sync()
    finally:
        dist.init_process_group(
            "gloo", store=dist.HashStore(), rank=0, world_size=1
        )  # whoever called this destroys one


def test_a_group_that_was_destroyed_is_an_error_of_the_sync(processes):
    processes(go_on_without_a_group, 2)


def mend_a_block(compression):
    schedule, topology = Hierarchical([2, 2]), Topology((2, 2))
    options = {"overlap_steps": 1, "fragments": 2, "compression": compression}
    workers, optimizers, local = build(2, None, schedule=schedule, topology=topology, **options)
    told = []
    for number in range(16):
        try:
            step(workers, optimizers, local, bad=1 if dist.get_rank() == 1 and number == 3 else None)
        except NonFiniteError as error:
            told.append((local.steps, str(error)[:39]))
            workers[1].load_state_dict(workers[0].state_dict())
    local.finish()
    parameters = [nn.utils.parameters_to_vector(worker.parameters()).tolist() for worker in workers]
    return told, parameters[0], parameters[1], local.totals.rounds


@pytest.mark.parametrize("compression", [None, OWING], ids=repr)
def test_blocks_stay_in_step_when_one_of_them_finds_a_bad_worker(compression, processes):
    first, second = processes(mend_a_block, 2, compression)
    assert first[0] == []
    assert second[0] == [(4, "worker 3 of 4: 1.bias is not finite (sy")]
    assert first[1] == first[2] == second[1] == second[2]
    assert first[3] == second[3]
