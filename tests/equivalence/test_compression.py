"""Compressed syncs: what arrives is what plain torch makes of the same payloads, on rows and on processes alike."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from localsgd import (
    Averaging,
    BlockMomentum,
    Every,
    EverySeconds,
    Hierarchical,
    LocalSGD,
    Nesterov,
    NonFiniteError,
    Outer,
    PostLocal,
    SlowMo,
    Topology,
    replicate,
)
from localsgd.compression import BFloat16, ErrorFeedback, Float16, Int4, Int8, Sign, TopK
from tests.equivalence.plain import OPTIMIZERS, batches, convolutional
from tests.equivalence.running import train_rows, train_split

NUM_VALUES = 96  # of one parameter, without gaps in its row
LOSSY = [BFloat16(), Float16(), Int8(16), Int4(16), ErrorFeedback(Int8(16)), ErrorFeedback(Sign(16)), TopK(0.25)]
OUTERS = [
    Averaging(),
    BlockMomentum(0.3),
    SlowMo(lr=0.9, momentum=0.5),
    Nesterov(lr=0.7, momentum=0.9),
    Outer(torch.optim.Adam, lr=0.01),
]


def linear(dtype=torch.float32):
    torch.manual_seed(1)
    return nn.Linear(NUM_VALUES, 1, bias=False).to(dtype)


def wide():
    return linear(torch.float64)


def half():
    return linear(torch.bfloat16)


def move(worker, number, length=NUM_VALUES):
    """What a worker moves in one round."""
    generator = torch.Generator().manual_seed(100 * worker + number)
    return torch.randn(length, generator=generator) * 0.1


def whole(worker, number, length=NUM_VALUES):
    """The same in eighths, which add up exactly in any order."""
    return (move(worker, number, length) * 80).round() / 8


def build(num_rows, schedule=None, make_model=linear, **options):
    models = replicate(make_model(), num_rows)
    optimizers = [torch.optim.SGD(own.parameters(), lr=0.1) for own in models]
    return models, LocalSGD(models, optimizers, schedule or Every(100), **options)


@torch.no_grad()
def travel(models, local, numbers, *, moves=move, poisoned=()):
    """Move every worker by hand and sync, again and again; gives the parameters of each row after each sync."""
    found = []
    for number in numbers:
        for row, model in enumerate(models):
            worker = local.first_worker + row
            model.weight.view(-1).add_(moves(worker, number).to(model.weight.dtype))
            if (worker, number) in poisoned:
                model.weight.view(-1)[3] = math.nan
        local.sync()
        found.append([model.weight.detach().view(-1).clone() for model in models])
    return found


def travel_anew(num_rows, num_rounds, make_model, moves, options):
    models, local = build(num_rows, make_model=make_model, **options)
    report_by_round = travel(models, local, range(num_rounds), moves=moves)
    return report_by_round, local.totals.bytes_sent, local.totals.wire_bytes


def test_two_processes_arrive_where_plain_torch_does(processes):
    anchor, expected = linear().weight.detach().view(-1).clone(), []
    for number in range(3):
        changes = [((anchor + move(worker, number)) - anchor) * 0.5 for worker in range(2)]
        total = torch.empty(NUM_VALUES)
        for owner, part in enumerate(torch.arange(NUM_VALUES).tensor_split(2)):
            told = [
                own[part] if worker == owner else own[part].bfloat16().float() for worker, own in enumerate(changes)
            ]
            total[part] = (told[0] + told[1]).bfloat16().float()
        anchor = anchor + total
        expected.append(anchor)
    for found, _, _ in processes(travel_anew, 2, 1, 3, linear, move, {"compression": BFloat16()}):
        assert all(torch.equal(own, wanted) for (own,), wanted in zip(found, expected, strict=True))


@pytest.mark.parametrize("make_model", [linear, wide, half])
@pytest.mark.parametrize("compressor", LOSSY, ids=repr)
def test_rows_are_processes_bit_for_bit(compressor, make_model, processes):
    options = {"compression": compressor}
    by_rows, sent, wire = travel_anew(3, 3, make_model, move, options)
    assert wire == 0
    for rank, (found, own_sent, own_wire) in enumerate(processes(travel_anew, 3, 1, 3, make_model, move, options)):
        assert own_sent == sent
        assert own_wire == pytest.approx(own_sent, abs=3)  # each of three vectors of facts is a third of a byte short
        for (own,), rows in zip(found, by_rows, strict=True):
            assert all(torch.equal(row, rows[0]) for row in rows)
            assert torch.equal(own, rows[rank])


@pytest.mark.parametrize("compressor", [BFloat16(), ErrorFeedback(BFloat16())], ids=repr)
def test_four_workers_on_one_two_and_four_processes(compressor, processes):
    options = {"compression": compressor}
    by_rows, sent, _ = travel_anew(4, 3, linear, whole, options)
    for world_size in (2, 4):
        for found, own_sent, _ in processes(travel_anew, world_size, 4 // world_size, 3, linear, whole, options):
            assert own_sent == sent
            assert all(
                torch.allclose(own, rows[0], rtol=0, atol=2e-6) for (own, *_), rows in zip(found, by_rows, strict=True)
            )


@pytest.mark.parametrize("compressor", LOSSY, ids=repr)
def test_replicas_are_the_same_bits_wherever_their_rows_are(compressor, processes):
    for options in ({}, {"topology": Topology((2, 2)), "schedule": Hierarchical([Every(100), Every(200)])}):
        results = processes(travel_anew, 2, 2, 3, linear, move, {"compression": compressor} | options)
        for round_ in range(3):
            replicas = [row for found, _, _ in results for row in found[round_]]
            assert len(replicas) == 4
            assert all(torch.equal(row, replicas[0]) for row in replicas)


def test_what_a_payload_can_hold_arrives_exactly():
    exact, _, _ = travel_anew(4, 3, linear, whole, {})
    compressed, _, _ = travel_anew(4, 3, linear, whole, {"compression": TopK(1.0)})
    for plain, own in zip(exact, compressed, strict=True):
        torch.testing.assert_close(own[0], plain[0], rtol=0, atol=3e-6)


@pytest.mark.parametrize("outer", OUTERS, ids=repr)
def test_every_outer_optimizer_acts_on_what_arrived(outer, processes):
    plain, _, _ = travel_anew(2, 4, wide, move, {"outer": outer})
    options = {"outer": outer, "compression": ErrorFeedback(TopK(1.0))}
    for found, _, _ in processes(travel_anew, 2, 1, 4, wide, move, options):
        for (own,), rows in zip(found, plain, strict=True):
            torch.testing.assert_close(own, rows[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outer", OUTERS, ids=repr)
def test_replicas_are_the_same_bits_after_every_outer_step(outer, processes):
    options = {"outer": outer, "compression": ErrorFeedback(Sign(16))}
    (first, _, _), (second, _, _) = processes(travel_anew, 2, 1, 4, linear, move, options)
    assert all(torch.equal(one, other) for (one,), (other,) in zip(first, second, strict=True))


def test_what_arrived_and_what_is_owed_is_what_was_meant():
    models, local = build(3, compression=ErrorFeedback(Sign(16)))
    start = models[0].weight.detach().view(-1).double()
    found = travel(models, local, range(5))
    owed = torch.zeros(NUM_VALUES, dtype=torch.float64)
    for worker, (own,) in local.state_dict()["residuals"].items():
        owed += own["residual"]
        owed[torch.arange(NUM_VALUES).tensor_split(3)[worker]] += own["owned_residual"]
    meant = sum(move(worker, number).double() for worker in range(3) for number in range(5)) / 3
    assert owed.abs().max() > 1e-3
    torch.testing.assert_close(found[-1][0].double() - start + owed, meant, rtol=0, atol=1e-5)


def test_signs_with_error_feedback_come_to_rest_where_plain_signs_do_not():
    def distance(compressor):
        models, local = build(4, Every(5), make_model=wide, compression=compressor)
        goals = [torch.zeros(NUM_VALUES, dtype=torch.float64) for _ in models]
        for worker, goal in enumerate(goals):
            goal[worker] = 8.0  # far apart: a block's mean absolute change says little about any of its values
        for step in range(400):
            for row, model in enumerate(models):
                rate = 1 / (1 + step / 20)  # what is owed shrinks with the rate
                model.weight.grad = (model.weight.detach() - goals[row]) * rate
                local.step(row=row)
        return (models[0].weight.detach().view(-1) - torch.stack(goals).mean(0)).norm().item()

    assert distance(None) < 0.01
    assert distance(ErrorFeedback(Sign(96))) < 1  # of the 4 from which they come; falls as the rate does
    assert distance(Sign(96)) > 3


def test_gaps_between_parameters_stay_zero_whatever_payloads_say():
    _, local, _ = train_rows(convolutional(), OPTIMIZERS[0], batches(6, 3), Every(3), compression=Sign(16))
    (group,) = local.rows.groups
    used = torch.zeros(group.layout.num_parameters, dtype=torch.bool)
    for entry in group.layout.parameters:
        used[entry.offset : entry.offset + entry.num_elements] = True
    assert not used.all()
    assert not group.storage[:, : used.numel()][:, ~used].any()
    assert not local.state_dict()["anchors"][0][~used].any()


def train_in_blocks(compression, num_rows):
    schedule, topology = Hierarchical([2, 2]), Topology((2, 2))
    models, local = build(
        num_rows, schedule, lambda: nn.Linear(300_007, 1, bias=False), topology=topology, compression=compression
    )
    for model in models:
        model(torch.ones(1, 300_007)).sum().backward()
    levels = []
    for step in range(8):
        local.step()
        if (step + 1) % 2 == 0:
            levels.append((local.last_sync.level, local.last_sync.bytes_by_level))
    return levels, local._synchronizer._everyone.communicator.wire_bytes_by_level if num_rows == 1 else None


def test_only_the_outer_level_is_compressed(processes):
    for (levels, sent), (plain, plain_sent) in zip(
        processes(train_in_blocks, 4, [None, Int8()], 1), processes(train_in_blocks, 4, None, 1), strict=True
    ):
        assert [level for level, _ in levels] == [1, 2, 1, 2]
        assert levels[0] == plain[0]
        inside, between = levels[1][1]
        assert inside == pytest.approx(plain[1][1][0], rel=1e-3)
        assert between == pytest.approx(plain[1][1][1] * (1 + 4 / 256) / 4, rel=1e-2)
        assert 2 * between == pytest.approx(sent[1], rel=1e-2)  # measured
        assert plain_sent[1] == pytest.approx(2 * plain[1][1][1], rel=1e-3)
    for levels, _ in processes(train_in_blocks, 2, Int8(), 2):
        assert levels[1][1] == (inside, between)  # a worker's bytes do not depend on where it lives


def exclude(num_rows, compression, poisoned):
    models, local = build(num_rows, compression=compression, non_finite="exclude")
    found = travel(models, local, range(3), moves=whole, poisoned=poisoned)
    return found, local.last_sync.finite_workers


@pytest.mark.parametrize("compressor", [TopK(1.0), ErrorFeedback(TopK(1.0))], ids=repr)
def test_an_excluded_worker_adds_nothing_and_takes_over_the_mean(compressor, processes):
    poisoned = [(1, 2), (2, 1)]
    plain, _ = exclude(3, None, poisoned)
    for found, finite_workers in [exclude(3, compressor, poisoned), *processes(exclude, 3, 1, compressor, poisoned)]:
        assert finite_workers == 2
        for own, rows in zip(found, plain, strict=True):
            assert all(torch.allclose(one, rows[0], rtol=0, atol=1e-5) for one in own)


def refuse(num_rows):
    models, local = build(num_rows, make_model=convolutional, compression=ErrorFeedback(Sign(16)))
    with torch.no_grad():
        for row, model in enumerate(models):
            for tensor in (*model.parameters(), model[2].running_mean):
                tensor.add_(move(local.first_worker + row, 0, tensor.numel()).view(tensor.shape))
    local.sync()
    with torch.no_grad():
        for row, model in enumerate(models):
            model[-1].weight.add_(0.1 * (1 + local.first_worker + row))
            model[2].running_mean.add_(1.0 + row)
            if local.first_worker + row == 1:
                model[-1].weight[0, 0] = math.inf

    def snapshot():
        tensors = [tensor for model in models for tensor in model.state_dict().values()]
        tensors += [t for own in local.state_dict()["residuals"].values() for part in own for t in part.values()]
        return [tensor.clone() for tensor in tensors]

    before = snapshot()
    try:
        local.sync()
    except NonFiniteError as error:
        return str(error), all(map(torch.equal, before, snapshot()))
    return "", False


def test_a_refused_sync_leaves_rows_and_residuals_as_they_were(processes):
    for message, is_untouched in [refuse(2), *processes(refuse, 2, 1)]:
        assert message.startswith("worker 1 of 2: 8.weight is not finite")
        assert "nothing was averaged" in message
        assert is_untouched


def test_workers_are_weighed_by_their_samples():
    models, local = build(2, EverySeconds(1e9), compression=TopK(1.0))
    anchor = models[0].weight.detach().clone()
    for row, (model, samples) in enumerate(zip(models, (3.0, 1.0), strict=True)):
        model.weight.grad = torch.full_like(model.weight, -10.0 * (row + 1))
        local.step(row=row, num_samples=samples)
    local.sync()
    torch.testing.assert_close(models[1].weight.detach() - anchor, torch.full_like(anchor, 0.75 * 1.0 + 0.25 * 2.0))


@pytest.mark.parametrize("compression", [None, TopK(1.0)], ids=repr)
@pytest.mark.parametrize("buffers", ["average", "broadcast"])
def test_buffers_of_workers_that_are_weighed_by_their_samples(buffers, compression):
    models = replicate(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), 2)
    optimizers = [torch.optim.SGD(own.parameters(), lr=0.1) for own in models]
    local = LocalSGD(models, optimizers, EverySeconds(1e9), buffers=buffers, compression=compression)
    for row, (model, samples) in enumerate(zip(models, (3.0, 1.0), strict=True)):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        model[1].running_mean.fill_(4.0 * (row + 1))
        local.step(row=row, num_samples=samples)
    local.sync()
    for model in models:
        assert model[1].running_mean.tolist() == pytest.approx([5.0 if buffers == "average" else 4.0] * 2)


@pytest.mark.parametrize("buffers", ["average", "local", "broadcast"])
def test_module_buffers_travel_as_they_are(buffers, processes):
    data = batches(3, 2)
    arguments = (convolutional, OPTIMIZERS[0], data, Every(3))
    plain = processes(_train_with, 2, arguments, {"buffers": buffers})
    compressed = processes(_train_with, 2, arguments, {"buffers": buffers, "compression": Int4(16)})
    rows = _train_with(arguments, {"buffers": buffers, "compression": Int4(16)})
    for rank, (own, reference) in enumerate(zip(compressed, plain, strict=True)):
        for name, tensor in reference[0].items():
            if "running" in name:
                assert torch.allclose(own[0][name], tensor, rtol=1e-6, atol=1e-7), name
                assert torch.allclose(rows[rank][name], tensor, rtol=1e-6, atol=1e-7), name
            elif tensor.is_floating_point():
                assert not torch.equal(own[0][name], tensor), name


def _train_with(arguments, options):
    models, _, _ = train_rows(arguments[0](), *arguments[1:], **options)
    return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]


def test_gradient_rounds_and_reading_are_not_compressed():
    data = batches(5, 3)
    plain, compressed = (
        train_rows(convolutional(), OPTIMIZERS[1], data, PostLocal(5, 4), **options)
        for options in ({}, {"compression": ErrorFeedback(Sign())})
    )
    for one, other in zip(plain[0], compressed[0], strict=True):
        assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in one.state_dict().items())
    assert compressed[2] == plain[2]
    local, models = compressed[1], compressed[0]
    anchors = local.state_dict()["anchors"]
    assert torch.equal(anchors[0], local.rows.groups[0].storage[0, : anchors[0].numel()])
    with torch.no_grad():
        for index, model in enumerate(models):
            model[-1].bias.add_(float(index))
    wanted = models[1][-1].bias.detach().clone()
    with local.averaged() as model:
        torch.testing.assert_close(model[-1].bias, wanted)


def test_a_single_worker_is_plain_training_bit_for_bit():
    models, local = build(1, Every(2), compression=ErrorFeedback(Sign()))
    plain = linear()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for number in range(6):
        for model, step in ((models[0], local.step), (plain, optimizer.step)):
            model.zero_grad()
            model(move(0, number)).square().sum().backward()
            step()
    assert torch.equal(models[0].weight, plain.weight)
    assert local.totals.wire_bytes == 0


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def break_and_resume(num_rows, options):
    options = dict(options)
    schedule = options.pop("schedule", PostLocal(2, 3))

    def start():
        models = replicate(convolutional(), num_rows)
        optimizers = [OPTIMIZERS[1](own.parameters()) for own in models]
        return models, optimizers, LocalSGD(models, optimizers, schedule, measure_drift=True, **options)

    def train(parts, data):
        models, optimizers, local = parts
        for batch in data:
            for row, model in enumerate(models):
                inputs, labels = batch[local.first_worker + row]
                nn.functional.cross_entropy(model(inputs), labels).backward()
                local.step(row=row)
                optimizers[row].zero_grad()

    data = batches(13, 4)
    unbroken, first, second = start(), start(), start()
    train(unbroken, data)
    train(first, data[:9])
    saved = through_a_file([[part.state_dict() for part in parts] for parts in first[:2]] + [first[2].state_dict()])
    for parts, states in zip(second[:2], saved[:2], strict=True):
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    second[2].load_state_dict(saved[2])
    train(second, data[9:])
    ours = [tensor for model in second[0] for tensor in model.state_dict().values()]
    theirs = [tensor for model in unbroken[0] for tensor in model.state_dict().values()]
    return all(map(torch.equal, ours, theirs)) and second[2].totals.bytes_sent == unbroken[2].totals.bytes_sent


RESUMED = [
    {"compression": ErrorFeedback(Sign(16))},
    {"compression": Int8(16, rounding="stochastic")},
    {"compression": ErrorFeedback(Int4(16, rounding="stochastic")), "outer": SlowMo(momentum=0.4)},
    {
        "compression": [None, ErrorFeedback(Sign(16))],
        "schedule": Hierarchical([2, 2]),
        "topology": Topology((2, 2)),
    },
]


@pytest.mark.parametrize("options", RESUMED, ids=repr)
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(options, num_processes, processes):
    if num_processes == 1:
        assert break_and_resume(4, options)
    else:
        assert processes(break_and_resume, num_processes, 4 // num_processes, options) == [True] * num_processes


def save_own(num_rows):
    models, local = build(num_rows, compression=ErrorFeedback(Sign(16)))
    found = travel(models, local, range(2))
    return copy.deepcopy(local.state_dict()), found[-1][0]


def test_a_run_goes_on_with_another_number_of_processes(processes):
    states, (weights, _) = zip(*processes(save_own, 2, 1), strict=True)
    models, local = build(2, compression=ErrorFeedback(Sign(16)))
    with torch.no_grad():
        for model in models:
            model.weight.copy_(weights.view_as(model.weight))
    local.load_state_dict(states[0] | {"residuals": states[0]["residuals"] | states[1]["residuals"]})
    unbroken, one = build(2, compression=ErrorFeedback(Sign(16)))
    expected = travel(unbroken, one, range(5))
    found = travel(models, local, range(2, 5))
    assert all(torch.equal(own[0], wanted[0]) for own, wanted in zip(found, expected[2:], strict=True))


def test_a_state_from_before_each_fragment_counted_its_sums_is_read():
    options = {"compression": ErrorFeedback(Int4(16, rounding="stochastic"))}
    unbroken, one = build(2, **options)
    expected = travel(unbroken, one, range(5))
    models, local = build(2, **options)
    travel(models, local, range(3))
    state = local.state_dict()
    assert state["num_sums"] == [3]
    resumed, other = build(2, **options)
    with torch.no_grad():
        for model, before in zip(resumed, models, strict=True):
            model.weight.copy_(before.weight)
    other.load_state_dict(copy.deepcopy(state) | {"num_sums": 3})
    found = travel(resumed, other, range(3, 5))
    assert all(torch.equal(own[0], wanted[0]) for own, wanted in zip(found, expected[3:], strict=True))


def test_training_with_compression_goes_on_after_finish():
    data = batches(7, 2)
    models, local, log = train_rows(convolutional(), OPTIMIZERS[0], data, Every(3), compression=Int8())
    assert [kind for _, kind, _ in log] == ["parameters", "parameters", "flush"]
    assert local.is_synced
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))
    assert len(train_split(convolutional, OPTIMIZERS[0], data, Every(3))[0]) == 2
