"""What goes wrong while a sync is under way is told when it lands, on every process; nobody hangs, and nothing leaks."""

import copy
import gc
import math
import os
import re
import threading
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
from localsgd.compression import ErrorFeedback, Sign, TopK
from tests.equivalence.plain import OPTIMIZERS, batches, convolutional, loss_of, perceptron
from tests.process_pool import warm_context

SIGNS = ErrorFeedback(Sign(16))
LATE_SIGNS = {"fragments": 2, "compression": SIGNS}


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overlap_mixing": 0.5},
        {"fragments": 2},
        {"compression": SIGNS},
        {"fragments": 2, "overlap_mixing": 0.5, "compression": SIGNS},
    ],
    ids=str,
)
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


@pytest.mark.parametrize("compression", [None, TopK(1.0)], ids=repr)
def test_an_excluded_worker_takes_over_the_mean_and_begins_anew(compression):
    options = {"non_finite": "exclude", "make_model": convolutional, "compression": compression}
    parts = build(3, overlap_steps=2, **options)
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


def exclude(num_rows, world_size, compression):
    first_worker = num_rows * (dist.get_rank() if world_size > 1 else 0)
    options = {"non_finite": "exclude", "compression": compression, "make_model": convolutional}
    parts = build(num_rows, overlap_steps=2, **options)
    for step, row in enumerate(batches(13, 3), start=1):
        step_all(parts, [row], first_worker=first_worker)
        if step in (3, 7) and first_worker <= 1 < first_worker + num_rows:
            poison(parts[0][1 - first_worker])
    parts[2].finish()
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in parts[0]]
    return states, [report.finite_workers for report in parts[2].recent_syncs]


def test_an_excluded_worker_adds_nothing_to_what_travels_as_payloads(processes):
    plain, counts = exclude(3, 1, None)
    assert counts == [2, 2, 3, 3]
    apart = processes(exclude, 3, 1, 3, TopK(1.0))
    for states, own_counts in [exclude(3, 1, TopK(1.0)), ([state for own, _ in apart for state in own], apart[0][1])]:
        assert own_counts == counts
        for own, wanted in zip(states, plain, strict=True):
            for name, tensor in wanted.items():
                torch.testing.assert_close(
                    own[name], tensor, rtol=0, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
                )


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


def refuse(num_rows, world_size):
    first_worker = num_rows * (dist.get_rank() if world_size > 1 else 0)
    parts = build(num_rows, overlap_steps=2, fragments=2, compression=SIGNS)
    step_all(parts, batches(6, 2), first_worker=first_worker)
    residuals = copy.deepcopy(parts[2].state_dict()["residuals"])
    if first_worker + num_rows == 2:
        poison(parts[0][-1])
    step_all(parts, batches(2, 2), first_worker=first_worker)
    own = [[p.detach().clone() for p in model.parameters()] for model in parts[0]]
    try:
        parts[2].stepper.land(due_only=False)
    except NonFiniteError as error:
        message = str(error)
    kept = parts[2].state_dict()["residuals"]
    fragment = slice(len(kept[first_worker]) // 2, None)  # the first one was sent before anything was wrong
    pairs = [(now, was) for worker in kept for now, was in zip(kept[worker], residuals[worker], strict=True)][fragment]
    same = [torch.equal(now[name], was[name]) for now, was in pairs for name in was]
    rows = [list(model.parameters()) for model in parts[0]]
    pairs_of_rows = [pair for mine, was in zip(rows, own, strict=True) for pair in zip(mine, was, strict=True)]
    are_alike = [torch.equal(now, was) or bool(was.isnan().any()) for now, was in pairs_of_rows]
    owed = sum(float(was["residual"].abs().sum()) for _, was in pairs)
    return message, owed > 0, all(same), all(are_alike)


def test_a_refused_sync_leaves_rows_and_what_is_owed(processes):
    for message, owed, is_owed_alike, rows_are_alike in [refuse(2, 1), *processes(refuse, 2, 1, 2)]:
        assert message.startswith("worker 1 of 2: ")
        assert "nothing was averaged" in message
        assert owed
        assert is_owed_alike
        assert rows_are_alike


@pytest.mark.parametrize("compression", [None, SIGNS], ids=repr)
def test_what_is_under_way_keeps_nothing_alive(compression):
    parts = build(2, overlap_steps=3, compression=compression)
    step_all(parts, batches(5, 2))
    gone = weakref.ref(parts[2])
    late = weakref.ref(parts[2]._synchronizer.late)
    del parts
    gc.collect()
    assert gone() is None
    assert late() is None


def test_a_courier_keeps_nobody_alive_and_goes_with_the_last_of_them(processes):
    assert processes(vanish, 2) == [(True, True, True)] * 2


def vanish():
    before = set(threading.enumerate())
    parts = build(1, overlap_steps=3, compression=SIGNS)
    step_all(parts, batches(5, 2), first_worker=dist.get_rank())
    parts[2].state_dict()  # waits for the exchange
    threads = [t for t in threading.enumerate() if t.name == "localsgd-courier" and t not in before]
    gone = weakref.ref(parts[2]), weakref.ref(parts[2]._synchronizer.late)
    del parts
    gc.collect()
    for thread in threads:
        thread.join(10)
    return len(threads) == 1, not any(thread.is_alive() for thread in threads), [one() for one in gone] == [None, None]


@pytest.mark.parametrize("compression", [None, SIGNS], ids=repr)
def test_processes_that_meant_different_syncs_are_told_so(compression, processes):
    for message in processes(disagree, 2, compression):
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


def disagree(compression):
    rank = dist.get_rank()
    parts = build(1, overlap_steps=3, compression=compression)
    if rank == 1:
        parts[2].stepper.clock.load({"steps": 1, "last_syncs": [1], "next_syncs": [5]})
    try:
        step_all(parts, batches(8, 1))
    except DisagreementError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("how", "options", "begin"),
    [
        ("dies", {}, "round 2, which began after step 8 and was to land after step 11"),
        ("stops_calling", {}, "round 2, which began after step 8 and was to land after step 11"),
        ("dies", {"compression": SIGNS}, "round 2, which began after step 8 and was to land after step 11"),
        # It may be gone before the others have heard all about the fragment before.
        (
            "dies",
            LATE_SIGNS,
            r"round [34], fragment [01], which began after step [68] and was to land after step (9|11)",
        ),
        ("stops_calling", LATE_SIGNS, "round 4, fragment 1, which began after step 8 and was to land after step 11"),
    ],
)
def test_a_process_that_is_lost_in_flight_is_noticed_at_the_landing(how, options, begin, tmp_path):
    context = warm_context()
    results = context.Queue()
    arguments = [(rank, how, options, str(tmp_path / "rendezvous"), results) for rank in range(2)]
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
    assert re.match(f"sync at level 1 in {begin}, failed: ", message)
    assert "start again from the last checkpoint" in message


def _train(rank, how, options, rendezvous, results):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=10)
    )
    parts = build(1, overlap_steps=3, **options)
    try:
        for step, row in enumerate(batches(12, 2), start=1):
            if rank == 1 and step == 8:
                time.sleep(60) if how == "stops_calling" else os._exit(1)
            step_all(parts, [row[rank : rank + 1]])
    except SyncError as error:
        results.put((type(error).__name__, str(error)))
    except BaseException as error:  # noqa: BLE001 - the parent must see whatever came instead
        results.put((type(error).__name__, repr(error)))


@pytest.mark.parametrize("compression", [None, SIGNS], ids=repr)
def test_processes_that_end_with_a_sync_under_way_end_well(compression, tmp_path):
    context = warm_context()
    arguments = [(rank, compression, str(tmp_path / "rendezvous")) for rank in range(2)]
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


def _leave_early(rank, compression, rendezvous):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    step_all(build(1, overlap_steps=3, compression=compression), batches(5, 1))
