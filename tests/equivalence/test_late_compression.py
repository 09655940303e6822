"""Compressed syncs that land later than they start, or go by fragments, against the rule written down in plain torch."""

import copy

import pytest
import torch
from torch import nn

from localsgd import BlockMomentum, Every, Hierarchical, LocalSGD, Topology, replicate
from localsgd.communicators import Processes, SharedMemory
from localsgd.compression import BFloat16, ErrorFeedback, Int4, Int8, Sign, TopK
from tests.equivalence.late import Rules, Wire, train_late
from tests.equivalence.plain import NUM_CLASSES, NUM_FEATURES, OPTIMIZERS, batches, loss_of
from tests.equivalence.running import floats, train_rows

WIDE = torch.float64
COMPRESSORS = [ErrorFeedback(Sign(16)), Int8(16), ErrorFeedback(TopK(0.25))]
WAYS = [(3, 1, None), (2, 3, None), (2, 3, 0.5), (3, 2, 0.0), (0, 3, None), (5, 3, None)]
# What cut_rows makes of the model: checked in the test of its name.
FRAGMENTS = {
    1: [["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "4.weight", "4.bias"]],
    2: [["0.weight", "0.bias", "1.weight", "1.bias"], ["3.weight", "3.bias", "4.weight", "4.bias"]],
    3: [["0.weight", "0.bias", "1.weight", "1.bias"], ["3.weight"], ["3.bias", "4.weight", "4.bias"]],
}


def layered(dtype=WIDE):
    torch.manual_seed(6)
    layers = [nn.Linear(NUM_FEATURES, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 9), nn.Linear(9, NUM_CLASSES)]
    return nn.Sequential(*layers).to(dtype)


def options_of(way, compressor, **more):
    overlap_steps, fragments, mixing = way
    late = {"overlap_steps": overlap_steps, "fragments": fragments, "overlap_mixing": mixing}
    return late | {"compression": compressor} | more


def reference(data, way, compressor, *, momentum=None, finish=True):
    overlap_steps, fragments, mixing = way
    rules = Rules(period=6, overlap_steps=overlap_steps, mixing=mixing, momentum=momentum, finish=finish)
    rules.fragments, rules.wire = FRAGMENTS[fragments], Wire(compressor)
    return [floats(model) for model in train_late(layered(), OPTIMIZERS[1], data, rules)]


def assert_equal(ours, theirs, *, atol=1e-12):
    for mine, other in zip(ours, theirs, strict=True):
        for name, tensor in other.items():
            torch.testing.assert_close(mine[name], tensor, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("count", FRAGMENTS)
def test_the_reference_cuts_the_model_as_the_rows_are_cut(count):
    models = replicate(layered(), 2)
    local = LocalSGD(models, [OPTIMIZERS[0](m.parameters()) for m in models], Every(6), fragments=count)
    (group,) = local.rows.groups
    cuts = (
        [parcel.fragment.regions[0] for parcel in local._synchronizer.late._parcels] if count > 1 else [slice(0, 1000)]
    )
    found = [[e.name for e in group.layout.parameters if cut.start <= e.offset < cut.stop] for cut in cuts]
    assert found == FRAGMENTS[count]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
@pytest.mark.parametrize("finish", [False, True])
def test_rows_follow_the_rule(compressor, way, finish):
    data = batches(20, 3, dtype=WIDE)
    options = options_of(way, compressor, finish=finish)
    ours, _, _ = train_rows(layered(), OPTIMIZERS[1], data, Every(6), **options)
    assert_equal([floats(model) for model in ours], reference(data, way, compressor, finish=finish))


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_an_outer_momentum_steps_on_what_arrived(compressor):
    data = batches(20, 3, dtype=WIDE)
    options = options_of((2, 3, None), compressor, outer=BlockMomentum(0.5))
    ours, _, _ = train_rows(layered(), OPTIMIZERS[1], data, Every(6), **options)
    theirs = reference(data, (2, 3, None), compressor, momentum=0.5)
    assert_equal([floats(model) for model in ours], theirs)


def train_apart(data, schedule, options, communicator=None, dtype=WIDE):
    own = None if communicator is None else communicator(Processes())
    models, local, _ = train_rows(layered(dtype), OPTIMIZERS[1], data, schedule, communicator=own, **options)
    states = [{name: tensor.clone() for name, tensor in floats(model).items()} for model in models]
    return states, (local.totals.rounds, local.totals.bytes_by_level), local.totals.wire_bytes


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2], WAYS[4], WAYS[5]], ids=str)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_processes_follow_the_same_rule(compressor, way, processes):
    data = batches(20, 3, dtype=WIDE)
    theirs = reference(data, way, compressor)
    results = processes(train_apart, 3, data, Every(6), options_of(way, compressor))
    assert_equal([state for states, _, _ in results for state in states], theirs)


@pytest.mark.parametrize("way", WAYS[1:4], ids=str)
@pytest.mark.parametrize("compressor", [*COMPRESSORS, ErrorFeedback(Int4(16)), BFloat16()], ids=repr)
def test_rows_are_processes_bit_for_bit(compressor, way, processes):
    data, options = (
        batches(20, 2),
        options_of(way, compressor, buffers="local"),
    )  # means of buffers add up in other orders
    rows, log, wire = train_apart(data, Every(6), options, dtype=torch.float32)
    assert wire == 0
    for rank, (own, own_log, own_wire) in enumerate(
        processes(train_apart, 2, data, Every(6), options, None, torch.float32)
    ):
        assert own_log == log
        assert own_wire == sum(log[1])
        assert all(torch.equal(own[0][name], tensor) for name, tensor in rows[rank].items())


@pytest.mark.parametrize("communicator", [None, SharedMemory])
def test_rows_on_processes_follow_the_rule_too(communicator, processes):
    data, way, compressor = batches(20, 4, dtype=WIDE), (2, 3, None), ErrorFeedback(Int8(16))
    theirs = reference(data, way, compressor)
    results = processes(train_apart, 2, data, Every(6), options_of(way, compressor), communicator)
    assert_equal([state for states, _, _ in results for state in states], theirs)
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2], WAYS[4], WAYS[5]], ids=str)
@pytest.mark.parametrize("compressor", [TopK(1.0), ErrorFeedback(Sign(16))], ids=repr)
def test_blocks_tell_each_other_payloads_wherever_their_workers_are(compressor, way, processes):
    data, schedule = batches(26, 4, dtype=WIDE), Hierarchical([2, 3])
    options = options_of(way, compressor, topology=Topology((2, 2)))
    rows, log, _ = train_apart(data, schedule, options)
    for world_size in (2, 4):
        results = processes(train_apart, world_size, data, schedule, options)
        assert {own_log for _, own_log, _ in results} == {log}
        found = [state for states, _, _ in results for state in states]
        assert all(torch.equal(state["4.weight"], found[0]["4.weight"]) for state in found)
        if world_size == 2:
            assert_equal(found, rows, atol=1e-9)
        elif compressor == TopK(1.0):  # others depend on who owns what: here a process owns a part of its block's share
            plain, _, _ = train_apart(data, schedule, options | {"compression": None})
            assert_equal(found, plain, atol=1e-5)


def test_one_worker_trains_as_it_would_alone():
    data = batches(14, 1)
    plain, _, _ = train_rows(layered(torch.float32), OPTIMIZERS[1], data, Every(6))
    options = options_of((2, 2, None), ErrorFeedback(Sign(16)))
    ours, local, _ = train_rows(layered(torch.float32), OPTIMIZERS[1], data, Every(6), **options)
    assert all(torch.equal(tensor, floats(plain[0])[name]) for name, tensor in floats(ours[0]).items())
    assert local.is_synced


def test_reports_tell_payloads_and_no_cosine():
    models = replicate(layered(), 2)
    optimizers = [OPTIMIZERS[1](model.parameters()) for model in models]
    options = options_of((3, 2, None), Int8(16), measure_drift=True)
    local = LocalSGD(models, optimizers, Every(6), **options)
    landed = []
    for row in batches(9, 2, dtype=WIDE):
        for index, (model, batch) in enumerate(zip(models, row, strict=True)):
            model.zero_grad()
            loss_of(model, batch).backward()
            local.step(row=index)
        landed += [local.last_sync] if local.last_sync not in [None, *landed] else []
    assert [(r.step, r.fragment, r.overlapped_steps) for r in landed] == [(3, 0, 3), (6, 1, 3)]
    assert all(report.cosine is None and report.drift_norm > 0 for report in landed)
    assert all(0 <= report.seconds_waited <= report.seconds for report in landed)
    layout = local.rows.groups[0].layout
    facts, buffers = 16 * 8, layout.num_buffers * 8
    lengths = [sum(-(-layered().get_parameter(name).numel() // 8) * 8 for name in names) for names in FRAGMENTS[2]]
    payloads = [2 * Int8(16).num_bytes(-(-length // 2)) for length in lengths]
    assert [report.bytes_sent for report in landed] == [facts + payloads[0], facts + buffers + payloads[1]]


def test_half_precision_rows_move_by_what_arrived():
    data = batches(12, 2)
    exact, _, _ = train_rows(layered(torch.float32), OPTIMIZERS[0], data, Every(6), finish=False)
    for mixing in (None, 0.0):
        options = {"overlap_steps": 0 if mixing is None else 2, "overlap_mixing": mixing, "fragments": 2}
        models = replicate(layered(torch.bfloat16), 2)
        optimizers = [OPTIMIZERS[0](model.parameters()) for model in models]
        local = LocalSGD(models, optimizers, Every(6), compression=ErrorFeedback(Int8(16)), **options)
        for row in data:
            for index, (model, (inputs, labels)) in enumerate(zip(models, row, strict=True)):
                model.zero_grad()
                nn.functional.cross_entropy(model(inputs.bfloat16()).float(), labels).backward()
                local.step(row=index)
        local.finish()
        for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(mine, other)
        anchors = local.state_dict()["anchors"]
        assert torch.equal(anchors[0].bfloat16(), local.rows.groups[0].storage[0, : anchors[0].numel()])
        for mine, other in zip(models[0].parameters(), exact[0].parameters(), strict=True):
            torch.testing.assert_close(mine.float(), other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "options", [{"fragments": 2}, {"overlap_steps": 2, "overlap_mixing": 0.0}, {"overlap_steps": 2}]
)
def test_what_rounding_takes_from_half_precision_rows_is_no_change_where_they_begin_alike(options):
    models = replicate(nn.Linear(8, 8).bfloat16(), 2)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    local = LocalSGD(models, optimizers, Every(4), compression=TopK(1.0), outer=BlockMomentum(0.0), **options)
    generator = torch.Generator().manual_seed(7)

    def take_round(scale):
        for _ in range(4):
            for row, model in enumerate(models):
                for parameter in model.parameters():
                    parameter.grad = (scale * torch.randn(parameter.shape, generator=generator)).bfloat16()
                local.step(row=row)
        return local.state_dict()["anchors"][0].clone()

    take_round(1)
    moved, rows = take_round(0), local.rows.groups[0].storage[:, : 8 * 9]
    assert not torch.equal(moved, moved.bfloat16().float()), "the anchor is finer than a row"
    if options == {"overlap_steps": 2}:
        held = rows.float().mean(0)
        torch.testing.assert_close(take_round(0)[: 8 * 9], held, rtol=0, atol=1e-7)
    else:
        assert all(torch.equal(take_round(0), moved) for _ in range(3))
        assert torch.equal(rows[0], moved[: 8 * 9].bfloat16())


def count_bytes(data):
    options = {"topology": Topology((2, 2)), "overlap_steps": 4, "fragments": 2, "compression": Int8(16)}
    _, local, _ = train_rows(
        layered(), OPTIMIZERS[0], data, Hierarchical([1, 6]), one_step_rounds="parameters", **options
    )
    by_what = {}
    for report in local.recent_syncs:
        by_what.setdefault((report.level, report.kind, report.fragment), set()).add(
            (report.wire_bytes, report.bytes_sent)
        )
    return by_what, (local.totals.wire_bytes, local.totals.bytes_sent)


def test_what_a_thread_sends_does_not_pass_for_what_blocks_send_meanwhile(processes):
    for by_what, (wire, sent) in processes(count_bytes, 4, batches(24, 4, dtype=WIDE)):
        everyone = {(2, "parameters", 0), (2, "parameters", 1), (2, "flush", None)}
        assert set(by_what) == everyone | {(1, "parameters", None)}
        assert all(len(found) == 1 for found in by_what.values()), by_what
        assert wire == pytest.approx(sent, rel=0.02)  # shares are rounded


def interrupt(num_rows, compression):
    """Average by hand, in a block and everyone, and read the consensus while fragments are under way."""
    rank = torch.distributed.get_rank()
    options = {"topology": Topology((2, 2)), "overlap_steps": 3, "fragments": 2, "compression": compression}
    models = replicate(layered(), num_rows)
    optimizers = [OPTIMIZERS[0](model.parameters()) for model in models]
    local = LocalSGD(models, optimizers, Hierarchical([3, 2]), **options)
    found = []
    for step, row in enumerate(batches(20, 4, dtype=WIDE), start=1):
        for index, model in enumerate(models):
            model.zero_grad()
            loss_of(model, row[num_rows * rank + index]).backward()
            local.step(row=index)
        if step in (4, 10):
            local.sync(level=1)
        if step in (7, 13, 17):
            with local.averaged() as model:
                found.append([p.detach().clone() for p in model.parameters()])
        if step in (8, 16):
            assert local.state_dict()["in_flight"]
            local.sync()
    local.finish()
    return [*found, [p.detach().clone() for p in models[0].parameters()]], local.totals.rounds


def test_other_exchanges_may_come_in_between(processes):
    plain, compressed = (processes(interrupt, 4, 1, compression) for compression in (None, TopK(1.0)))
    for (exact, rounds), (found, own_rounds) in zip(plain, compressed, strict=True):
        assert own_rounds == rounds
        for one, other in zip(exact, found, strict=True):
            for wanted, parameter in zip(one, other, strict=True):
                torch.testing.assert_close(parameter, wanted, rtol=0, atol=1e-5)


def train_mixed(num_rows, rounding, stop=None):
    """Parameters of three types, so that fragments hold nothing of some; gives what each row has, and what was sent."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    sizes = {"a": (40, torch.float32), "b": (24, WIDE), "c": (50, torch.bfloat16)}

    def start():
        model = nn.ParameterDict({name: torch.ones(size, dtype=dtype) for name, (size, dtype) in sizes.items()})
        models = replicate(model, num_rows)
        optimizers = [torch.optim.SGD(own.parameters(), lr=0.1) for own in models]
        options = options_of((3, 3, None), ErrorFeedback(Int8(16, rounding=rounding)), outer=BlockMomentum(0.5))
        return models, LocalSGD(models, optimizers, Every(4), **options)

    models, local = start()
    for step in range(14):
        if step == stop:
            state, weights = copy.deepcopy(local.state_dict()), [model.state_dict() for model in models]
            models, local = start()
            for model, saved in zip(models, weights, strict=True):
                model.load_state_dict(saved)
            local.load_state_dict(state)
        for row, model in enumerate(models):
            generator = torch.Generator().manual_seed(100 * (num_rows * rank + row) + step)
            for parameter in model.values():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            local.step(row=row)
    local.finish()
    return [{name: p.detach().clone() for name, p in model.items()} for model in models], local.totals.bytes_sent


def test_parameters_of_several_types_go_in_payloads_too(processes):
    rows, sent = train_mixed(2, "nearest")
    for rank, ((own,), own_sent) in enumerate(processes(train_mixed, 2, 1, "nearest")):
        assert own_sent == sent
        assert all(torch.equal(own[name], tensor) for name, tensor in rows[rank].items())


@pytest.mark.parametrize("stop", [4, 5, 6, 7])
def test_rounding_by_chance_goes_on_where_it_was(stop):
    for own, unbroken in zip(train_mixed(2, "stochastic", stop)[0], train_mixed(2, "stochastic")[0], strict=True):
        assert all(torch.equal(own[name], tensor) for name, tensor in unbroken.items())
