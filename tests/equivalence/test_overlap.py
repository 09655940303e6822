"""Syncs that land later than they start, against the rule written down naively in plain torch."""

import copy

import pytest
import torch

from localsgd import BlockMomentum, Every, Hierarchical, LocalSGD, PostLocal, Topology, Warmup, replicate
from localsgd.communicators import Processes, SharedMemory
from localsgd.schedules import sync_steps
from tests.equivalence.late import Rules, train_late
from tests.equivalence.plain import (
    OPTIMIZERS,
    batches,
    convolutional,
    loss_of,
    perceptron,
    train_local_sgd,
    train_plain,
)
from tests.equivalence.running import floats, train_rows

WIDE = torch.float64


def data_of(num_steps, num_workers):
    return batches(num_steps, num_workers, dtype=WIDE)


def wide_convolutional():
    return convolutional(WIDE)


def wide_perceptron():
    return perceptron(WIDE)


def replicas_of(model, num_rows, schedule, **options):
    models = replicate(model, num_rows)
    optimizers = [OPTIMIZERS[1](own.parameters()) for own in models]
    return models, LocalSGD(models, optimizers, schedule, **options)


def step_all(models, local, row):
    for index, (model, batch) in enumerate(zip(models, row, strict=True)):
        model.zero_grad()
        loss_of(model, batch).backward()
        local.step(row=index)


def assert_equal(ours, theirs, *, atol=1e-12):
    for mine, other in zip(ours, theirs, strict=True):
        found = floats(mine) if isinstance(mine, torch.nn.Module) else mine
        for name, tensor in floats(other).items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("num_workers", [2, 4])
@pytest.mark.parametrize("overlap_steps", [1, 2, 3])
@pytest.mark.parametrize("finish", [False, True])
def test_rows_follow_the_delta_rule(num_workers, overlap_steps, finish):
    data = data_of(14, num_workers)
    make_model = wide_convolutional if finish and num_workers == 2 else wide_perceptron
    rules = Rules(period=4, overlap_steps=overlap_steps, finish=finish)
    theirs = train_late(make_model(), OPTIMIZERS[1], data, rules)
    options = {"finish": finish, "overlap_steps": overlap_steps}
    ours, local, _ = train_rows(make_model(), OPTIMIZERS[1], data, Every(4), **options)
    assert_equal(ours, theirs)
    assert local.totals.rounds == (4 if finish else 3 if overlap_steps <= 2 else 2)


@pytest.mark.parametrize("overlap_steps", [1, 3])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_an_outer_momentum_steps_when_the_mean_lands(make, overlap_steps):
    data = data_of(14, 3)
    theirs = train_late(wide_perceptron(), make, data, Rules(period=4, overlap_steps=overlap_steps, momentum=0.5))
    ours, _, _ = train_rows(
        wide_perceptron(), make, data, Every(4), outer=BlockMomentum(0.5), overlap_steps=overlap_steps
    )
    assert_equal(ours, theirs)


@pytest.mark.parametrize("mixing", [0.0, 0.5])
@pytest.mark.parametrize("momentum", [None, 0.3])
def test_mixing_weighs_what_a_worker_has_with_the_consensus(mixing, momentum):
    data = data_of(10, 2)
    rules = Rules(period=4, overlap_steps=2, mixing=mixing, momentum=momentum)
    theirs = train_late(wide_convolutional(), OPTIMIZERS[1], data, rules)
    outer = {} if momentum is None else {"outer": BlockMomentum(momentum)}
    ours, _, _ = train_rows(
        wide_convolutional(), OPTIMIZERS[1], data, Every(4), overlap_steps=2, overlap_mixing=mixing, **outer
    )
    assert_equal(ours, theirs)


@pytest.mark.parametrize(("mixing", "communicator"), [(None, Processes), (0.25, Processes), (None, SharedMemory)])
def test_processes_follow_the_same_rule(processes, mixing, communicator):
    data = data_of(11, 4)
    rules = Rules(period=4, overlap_steps=3, mixing=mixing, momentum=0.4)
    theirs = train_late(wide_convolutional(), OPTIMIZERS[1], data, rules)
    results = processes(split_late, 2, data, mixing, communicator)
    assert_equal([state for states, _ in results for state in states], theirs)
    logs = [log for _, log in results]
    assert logs[0] == logs[1]


def split_late(data, mixing, communicator):
    own = Processes() if communicator is Processes else SharedMemory(Processes())
    models, local, _ = train_rows(
        wide_convolutional(),
        OPTIMIZERS[1],
        data,
        Every(4),
        outer=BlockMomentum(0.4),
        overlap_steps=3,
        overlap_mixing=mixing,
        communicator=own,
    )
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    return states, (local.totals.rounds, local.totals.bytes_by_level, local.totals.wire_bytes)


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("options", [{"overlap_steps": 3}, {"fragments": 3}, {"overlap_steps": 2, "fragments": 3}])
def test_one_worker_trains_as_it_would_alone(make, options):
    data = batches(10, 1)
    alone = train_plain(convolutional(), make, [row[0] for row in data])
    (ours,), local, _ = train_rows(convolutional(), make, data, Every(4), **options)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert local.is_synced


def test_a_first_phase_of_single_steps_is_never_overlapped():
    data = data_of(12, 3)
    ours, local, log = train_rows(wide_perceptron(), OPTIMIZERS[1], data[:4], PostLocal(4, 4), overlap_steps=2)
    assert [entry[:2] for entry in log] == [(step, "gradients") for step in (1, 2, 3, 4)]
    assert_equal(ours, train_local_sgd(wide_perceptron(), OPTIMIZERS[1], data[:4], [1, 2, 3, 4]), atol=1e-10)
    assert local.is_synced


def test_a_sync_lands_before_the_next_one_starts_where_rounds_are_shorter():
    options = {"overlap_steps": 5, "one_step_rounds": "parameters"}
    _, _, log = train_rows(perceptron(), OPTIMIZERS[0], batches(1, 2), Warmup(6, num_rounds=4), **options)
    assert log == [(1, "parameters", log[0][2])], "the tail of the run lands at once"
    models, local = replicas_of(perceptron(), 2, Warmup(6, num_rounds=4), **options)
    landed = []
    for row in batches(14, 2):
        step_all(models, local, row)
        if local.last_sync is not None and (local.last_sync.step, local.steps) not in landed[-1:]:
            landed.append((local.last_sync.step, local.steps))
    starts = list(sync_steps(Warmup(6, num_rounds=4), 14))
    assert starts == [1, 3, 7, 12]
    first = {step: min(at for begun, at in landed if begun == step) for step, _ in landed}
    assert first == {1: 3, 3: 7, 7: 12}


def test_the_workers_mean_is_what_it_was_when_plain_averages_land():
    data = data_of(20, 3)
    models, local, _ = train_rows(wide_perceptron(), OPTIMIZERS[0], data[:6], Every(4), overlap_steps=3, finish=False)
    assert local.next_sync == 7
    before = torch.stack([torch.cat([p.detach().flatten() for p in m.parameters()]) for m in models])
    local.stepper.land(due_only=False)
    after = torch.stack([torch.cat([p.detach().flatten() for p in m.parameters()]) for m in models])
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=0, atol=1e-14)


def test_buffers_stay_between_what_they_are_and_the_mean():
    models, local = replicas_of(wide_convolutional(), 3, Every(4), overlap_steps=3)
    names = [name for name, buffer in models[0].named_buffers() if buffer.is_floating_point()]
    for step, row in enumerate(data_of(4, 3), start=1):
        step_all(models, local, row)
        if step == 4:
            snapshots = [{name: model.get_buffer(name).clone() for name in names} for model in models]
    for row in data_of(2, 3):
        step_all(models, local, row)
    with torch.no_grad():
        # Statistics that fall fast: a mean's difference to the snapshot, added, would take them far below zero.
        for worker, model in enumerate(models):
            for name in names:
                model.get_buffer(name).fill_(1e-3 * (worker + 1))
    own = [{name: model.get_buffer(name).clone() for name in names} for model in models]
    local.stepper.land(due_only=False)
    for name in (n for n in names if n.endswith("running_var")):
        mean = torch.stack([snapshot[name] for snapshot in snapshots]).mean(0)
        naive = [mine[name] + mean - snapshot[name] for mine, snapshot in zip(own, snapshots, strict=True)]
        assert min(float(values.min()) for values in naive) < 0, "the plain rule would have made a variance negative"
        for model, mine in zip(models, own, strict=True):
            landed = model.get_buffer(name)
            assert bool((landed >= torch.minimum(mine[name], mean)).all())
            assert bool((landed <= torch.maximum(mine[name], mean)).all())
            assert bool((landed > 0).all())


def test_integer_buffers_are_left_alone():
    models, local = replicas_of(wide_convolutional(), 2, Every(4), overlap_steps=2)
    for row in data_of(6, 2):
        step_all(models, local, row)
    with torch.no_grad():
        models[1].get_buffer("2.num_batches_tracked").fill_(77)
    local.finish()
    assert [int(model.get_buffer("2.num_batches_tracked")) for model in models] == [6, 77]


def test_reports_tell_when_a_sync_started_and_how_long_it_went_on():
    models, local = replicas_of(perceptron(), 2, Every(4), overlap_steps=3, measure_drift=True)
    for row in batches(6, 2):
        step_all(models, local, row)
    assert local.last_sync is None
    assert not local.is_synced
    assert local.next_sync == 7
    step_all(models, local, batches(1, 2)[0])
    report = local.last_sync
    assert (report.step, report.overlapped_steps, report.fragment, report.round) == (4, 3, None, 1)
    assert report.drift_norm > 0
    assert -1 <= report.cosine <= 1
    assert report.finite_workers == 2
    assert 0 <= report.seconds_waited <= report.seconds


def test_what_has_just_started_lands_in_finish_without_a_second_sync():
    models, local = replicas_of(perceptron(), 2, Every(4), overlap_steps=3, outer=BlockMomentum(0.5))
    for row in batches(4, 2):
        step_all(models, local, row)
    assert not local.is_synced
    report = local.finish()
    assert (report.kind, report.step, report.overlapped_steps, local.totals.rounds) == ("parameters", 4, 0, 1)
    assert local.is_synced
    assert local.finish() is None
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_sync_by_hand_lands_what_is_under_way_first():
    models, local = replicas_of(perceptron(), 2, Every(4), overlap_steps=3)
    for row in batches(5, 2):
        step_all(models, local, row)
    report = local.sync()
    assert (report.kind, report.step, local.totals.rounds, local.next_sync) == ("manual", 5, 2, 8)
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_reading_the_consensus_lands_nothing_and_changes_nothing():
    models, local = replicas_of(wide_convolutional(), 2, Every(4), overlap_steps=3)
    for row in data_of(6, 2):
        step_all(models, local, row)
    before = [{name: t.clone() for name, t in model.state_dict().items()} for model in models]
    with local.averaged() as consensus:
        for name, parameter in consensus.named_parameters():
            if parameter.requires_grad:
                mean = torch.stack([own[name] for own in before]).mean(0)
                torch.testing.assert_close(parameter.detach(), mean, rtol=0, atol=1e-14)
    assert local.totals.rounds == 0
    assert local.next_sync == 7
    for model, own in zip(models, before, strict=True):
        assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_blocks_average_before_a_sync_of_everyone_starts():
    data = data_of(9, 4)
    theirs = blocks_by_hand(data)
    ours, local, _ = train_rows(
        wide_perceptron(),
        OPTIMIZERS[1],
        data,
        Hierarchical([2, 2]),
        topology=Topology((2, 2)),
        overlap_steps=3,
        finish=False,
    )
    assert_equal(ours, theirs)
    assert local.totals.rounds == 3, (
        "steps 2 and 6 inside the blocks; everyone's sync of step 4 has landed, that of 8 has not"
    )


@pytest.mark.parametrize("world_size", [2, 4])
def test_blocks_of_processes_follow_the_same_rule(processes, world_size):
    data = data_of(9, 4)
    found = [state for states in processes(split_blocks, world_size, data) for state in states]
    assert_equal(found, blocks_by_hand(data))


def split_blocks(data):
    options = {"topology": Topology((2, 2)), "overlap_steps": 3, "finish": False}
    models, _, _ = train_rows(wide_perceptron(), OPTIMIZERS[1], data, Hierarchical([2, 2]), **options)
    return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]


def blocks_by_hand(data):
    """Two blocks of two: blocks average after every second step, everyone's snapshot of each fourth lands 3 steps later."""
    models = [copy.deepcopy(wide_perceptron()) for _ in range(4)]
    optimizers = [OPTIMIZERS[1](model.parameters()) for model in models]
    tensors = [[p.detach() for p in model.parameters() if p.requires_grad] for model in models]
    snapshots = []
    for step, row in enumerate(data, start=1):
        for model, optimizer, batch in zip(models, optimizers, row, strict=True):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
        if step % 4 == 3 and snapshots:
            for own, olds in zip(tensors, snapshots, strict=True):
                for index, tensor in enumerate(own):
                    tensor.add_(torch.stack([old[index] for old in snapshots]).mean(0) - olds[index])
        if step % 2 == 0:
            for block in (tensors[:2], tensors[2:]):
                for same in zip(*block, strict=True):
                    mean = torch.stack(same).mean(0)
                    for tensor in same:
                        tensor.copy_(mean)
        if step % 4 == 0:
            snapshots = [[tensor.clone() for tensor in own] for own in tensors]
    return models
