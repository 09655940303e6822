"""What goes wrong while a sync is under way is told when it lands, on every process; nobody hangs, and nothing leaks."""

import gc
import math
import os
import time
import weakref
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn

from localsgd import (
    BrokenViewError,
    DisagreementError,
    Every,
    Hierarchical,
    LocalSGD,
    NonFiniteError,
    SyncError,
    Topology,
    replicate,
)
from tests.equivalence.plain import OPTIMIZERS, batches, convolutional, loss_of, perceptron
from tests.process_pool import warm_context


def build(num_rows, schedule=None, make_model=perceptron, **options):
    models = replicate(make_model(), num_rows)
    optimizers = [OPTIMIZERS[1](m.parameters()) for m in models]
    return models, optimizers, LocalSGD(models, optimizers, schedule or Every(4), **options)


def step_all(parts, data, *, first_worker=0):
    models, optimizers, local = parts
    for row in data:
        for index, model in enumerate(models):
            optimizers[index].zero_grad()
            loss_of(model, row[first_worker + index]).backward()
            local.step(row=index)


def poison(model):
    with torch.no_grad():
        model[-1].weight[1, 2] = math.nan


@pytest.mark.parametrize("options", [{}, {"overlap_mixing": 0.5}, {"fragments": 2}], ids=str)
def test_a_worker_that_was_not_finite_is_named_and_nothing_lands(options):
    parts = build(3, overlap_steps=2, **options)
    step_all(parts, batches(3, 3))
    poison(parts[0][1])
    step_all(parts, batches(2, 3))
    own = [[p.detach().clone() for p in model.parameters()] for model in parts[0]]
    with pytest.raises(
        NonFiniteError, match=r"worker 1 of 3: .* not finite \(sync at level 1 after step 4\); nothing was"
    ):
        parts[2].stepper.land(due_only=False)
    for model, before in zip(parts[0], own, strict=True):
        assert all(torch.equal(p, b) or bool(b.isnan().any()) for p, b in zip(model.parameters(), before, strict=True))
    assert parts[2].totals.rounds == (1 if options.get("fragments") else 0), "only what was finite has landed"


def test_an_excluded_worker_takes_over_the_mean_and_begins_anew():
    parts = build(3, overlap_steps=2, non_finite="exclude", make_model=convolutional)
    models, optimizers, local = parts
    step_all(parts, batches(3, 3))
    poison(models[2])
    step_all(parts, batches(1, 3))
    snapshots = [[p.detach().clone() for p in model.parameters()] for model in models]
    step_all(parts, batches(1, 3))
    assert optimizers[2].state
    before = [[p.detach().clone() for p in model.parameters()] for model in models[:2]]
    local.stepper.land(due_only=False)
    assert local.last_sync.finite_workers == 2
    means = [(one + other) / 2 for one, other in zip(*snapshots[:2], strict=True)]
    for parameter, mean in zip(models[2].parameters(), means, strict=True):
        torch.testing.assert_close(parameter.detach(), mean)
    assert all(bool(b.isfinite().all()) for b in models[2].buffers())
    assert not optimizers[2].state, "its momentum had learnt from what is not finite"
    for model, own, snapshot in zip(models[:2], before, snapshots[:2], strict=True):
        for parameter, was, old, mean in zip(model.parameters(), own, snapshot, means, strict=True):
            torch.testing.assert_close(parameter.detach(), was + mean - old)


def test_a_parameter_that_was_moved_before_the_start_is_named():
    parts = build(2, overlap_steps=2)
    step_all(parts, batches(3, 2))
    parts[0][1][5].weight = nn.Parameter(torch.zeros(3, 5))
    step_all(parts, batches(1, 2))
    with pytest.raises(
        BrokenViewError, match=r"worker 1 of 2: '5\.weight' was replaced .*\(sync at level 1 after step 4"
    ):
        step_all(parts, batches(2, 2))


def test_blocks_stay_alike_while_a_sync_of_everyone_is_under_way():
    options = {"topology": Topology((2, 2)), "overlap_steps": 3}
    parts = build(4, Hierarchical([1, 4]), **options)
    models, _, local = parts
    for row in batches(10, 4):
        step_all(parts, [row])
        for first, second in (models[:2], models[2:]):
            for mine, other in zip(first.parameters(), second.parameters(), strict=True):
                assert torch.equal(mine, other), local.steps
    landed = local.last_sync
    assert (landed.step, landed.level) == (10, 1)
    assert local.totals.rounds == 9, "8 rounds of gradients inside the blocks, and one sync of everyone has landed"


def test_what_is_under_way_keeps_nothing_alive():
    parts = build(2, overlap_steps=3)
    step_all(parts, batches(5, 2))
    gone = weakref.ref(parts[2])
    late = weakref.ref(parts[2]._synchronizer.late)
    del parts
    gc.collect()
    assert gone() is None
    assert late() is None


def test_processes_that_meant_different_syncs_are_told_so(processes):
    for message in processes(disagree, 2):
        assert "processes met in one exchange with different intentions" in message
        assert "process 0: parameters at step 4; process 1: parameters at step 5" in message


def test_processes_with_different_options_are_told_so(processes):
    for message in processes(construct_alike, 2):
        assert "process 1 of 2 has option overlap_steps=2 where process 0 has overlap_steps=1" in message


def construct_alike():
    try:
        build(1, overlap_steps=1 + dist.get_rank())
    except DisagreementError as error:
        return str(error)
    return "nothing"


def disagree():
    rank = dist.get_rank()
    parts = build(1, overlap_steps=3)
    if rank == 1:
        parts[2].stepper.clock.load({"steps": 1, "last_syncs": [1], "next_syncs": [5]})
    try:
        step_all(parts, batches(8, 1))
    except DisagreementError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("how", ["dies", "stops_calling"])
def test_a_process_that_is_lost_in_flight_is_noticed_at_the_landing(how, tmp_path):
    context = warm_context()
    results = context.Queue()
    arguments = [(rank, how, str(tmp_path / "rendezvous"), results) for rank in range(2)]
    processes = [context.Process(target=_train, args=own, daemon=True) for own in arguments]
    for process in processes:
        process.start()
    try:
        kind, message = results.get(timeout=120)
        processes[0].join(30)
        assert processes[0].exitcode == 0, "the survivor ends by itself"
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert kind == "SyncError", message
    begin = "sync at level 1 in round 2, which began after step 8 and was to land after step 11, failed: "
    assert message.startswith(begin)
    assert "start again from the last checkpoint" in message


def _train(rank, how, rendezvous, results):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=10)
    )
    parts = build(1, overlap_steps=3)
    try:
        for step, row in enumerate(batches(12, 2), start=1):
            if rank == 1 and step == 8:
                time.sleep(60) if how == "stops_calling" else os._exit(1)
            step_all(parts, [row[rank : rank + 1]])
    except SyncError as error:
        results.put((type(error).__name__, str(error)))
    except BaseException as error:  # noqa: BLE001 - the parent must see whatever came instead
        results.put((type(error).__name__, repr(error)))


def test_processes_that_end_with_a_sync_under_way_end_well(tmp_path):
    context = warm_context()
    arguments = [(rank, str(tmp_path / "rendezvous")) for rank in range(2)]
    processes = [context.Process(target=_leave_early, args=own, daemon=True) for own in arguments]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _leave_early(rank, rendezvous):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    step_all(build(1, overlap_steps=3), batches(5, 1))
