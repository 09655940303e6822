"""A run stopped while a sync is under way and resumed equals the unbroken run, bit for bit."""

import copy
import io

import pytest
import torch

from localsgd import (
    ArgumentError,
    BlockMomentum,
    Every,
    Hierarchical,
    LocalSGD,
    QuadraticRule,
    Topology,
    replicate,
)
from localsgd.compression import ErrorFeedback, Int4, Int8, Sign
from tests.equivalence.plain import OPTIMIZERS, batches, convolutional, loss_of, perceptron

OPTIONS = [
    {"overlap_steps": 3},
    {"overlap_steps": 3, "overlap_mixing": 0.5, "measure_drift": True},
    {"overlap_steps": 3, "fragments": 4, "outer": BlockMomentum(0.5)},
    {"fragments": 2},
    {"overlap_steps": 3, "fragments": 4, "compression": ErrorFeedback(Sign(16)), "outer": BlockMomentum(0.5)},
    {"overlap_steps": 3, "overlap_mixing": 0.5, "compression": ErrorFeedback(Int4(16, rounding="stochastic"))},
    {"fragments": 2, "compression": ErrorFeedback(Int8(16))},
]


def build(num_rows, options, make_model=perceptron):
    models = replicate(make_model(), num_rows)
    optimizers = [OPTIMIZERS[1](m.parameters()) for m in models]
    return models, optimizers, LocalSGD(models, optimizers, Every(4), **options)


def train(models, optimizers, local, data, *, first_worker=0):
    for row in data:
        for index, model in enumerate(models):
            loss_of(model, row[first_worker + index]).backward()
            local.step(row=index)
            optimizers[index].zero_grad()


def save(models, optimizers, local):
    file = io.BytesIO()
    states = [[part.state_dict() for part in parts] for parts in (models, optimizers)]
    torch.save([*states, local.state_dict()], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def load(parts, saved):
    models, optimizers, local = parts
    for objects, states in zip((models, optimizers), saved[:2], strict=True):
        for item, state in zip(objects, states, strict=True):
            item.load_state_dict(state)
    local.load_state_dict(saved[2])


def assert_alike(ours, theirs):
    for mine, other in zip(ours[0], theirs[0], strict=True):
        for name, tensor in other.state_dict().items():
            assert torch.equal(mine.state_dict()[name], tensor), name
    for name in ("rounds", "bytes_by_level", "wire_bytes"):
        assert getattr(ours[2].totals, name) == getattr(theirs[2].totals, name)


@pytest.mark.parametrize("stop", [4, 5, 6, 7])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_resume_in_flight_bit_for_bit(options, stop):
    data = batches(11, 3)
    unbroken, first, second = (build(3, options) for _ in range(3))
    train(*unbroken, data)
    train(*first, data[:stop])
    load(second, save(*first))
    train(*second, data[stop:])
    for parts in (unbroken, second):
        parts[2].finish()
    assert_alike(second, unbroken)


def test_buffers_in_flight_are_saved():
    data = batches(9, 2)
    unbroken, first, second = (build(2, OPTIONS[0], convolutional) for _ in range(3))
    train(*unbroken, data)
    train(*first, data[:5])
    load(second, save(*first))
    train(*second, data[5:])
    assert_alike(second, unbroken)


def test_saving_lands_nothing():
    parts = build(2, OPTIONS[0])
    train(*parts, batches(5, 2))
    models, _, local = parts
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    state = local.state_dict()
    assert [flight["due"] for flight in state["in_flight"]] == [7]
    assert sorted(state["snapshots"]) == [0, 1]
    assert local.totals.rounds == 0
    for model, own in zip(models, before, strict=True):
        assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "num_rows"), [(OPTIONS[2], 2), (OPTIONS[4], 2), (OPTIONS[4], 1), (OPTIONS[5], 1)], ids=str
)
def test_processes_resume_in_flight_bit_for_bit(options, num_rows, processes):
    for unbroken, resumed, loaded_over in processes(_break_and_resume, 2, options, num_rows):
        assert unbroken == resumed
        assert unbroken == loaded_over, "what was under way was given up"


def _break_and_resume(options, num_rows):
    data, first_worker = batches(9, 2 * num_rows), num_rows * torch.distributed.get_rank()
    unbroken, first, second, third = (build(num_rows, options) for _ in range(4))
    train(*unbroken, data, first_worker=first_worker)
    train(*first, data[:5], first_worker=first_worker)
    saved = save(*first)
    train(*third, data[:7], first_worker=first_worker)
    for parts in (second, third):
        load(parts, copy.deepcopy(saved))  # optimizers go on with the tensors that they load
        train(*parts, data[5:], first_worker=first_worker)
    found = []
    for models, _, local in (unbroken, second, third):
        local.finish()
        found.append([{n: t.tolist() for n, t in m.state_dict().items()} for m in models])
    return found


def _save_in_flight(options):
    data, rank = batches(9, 2), torch.distributed.get_rank()
    parts = build(1, options)
    train(*parts, data[:5], first_worker=rank)
    return save(*parts)


@pytest.mark.parametrize("options", [OPTIONS[4], OPTIONS[6]], ids=str)
def test_what_processes_had_under_way_lands_in_the_rows_of_one(options, processes):
    saved = processes(_save_in_flight, 2, options)
    by_worker = {
        name: saved[0][2][name] | saved[1][2][name] for name in ("residuals", "snapshots") if name in saved[0][2]
    }
    unbroken, resumed = build(2, options), build(2, options)
    load(resumed, [saved[0][0] + saved[1][0], saved[0][1] + saved[1][1], saved[0][2] | by_worker])
    data = batches(9, 2)
    train(*unbroken, data)
    train(*resumed, data[5:])
    for parts in (unbroken, resumed):
        parts[2].finish()
    for mine, other in zip(resumed[0], unbroken[0], strict=True):
        assert all(torch.equal(tensor, mine.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_a_state_of_other_options_or_without_a_snapshot_is_refused():
    parts = build(2, OPTIONS[0])
    train(*parts, batches(5, 2))
    state = parts[2].state_dict()
    with pytest.raises(
        ArgumentError, match=r"saved with overlap_steps=3, .*and now it is overlap_steps=0, .*; resume with"
    ):
        build(2, {})[2].load_state_dict(state)
    with pytest.raises(ArgumentError, match=r"and now it is overlap_steps=2, overlap_mixing=None, fragments=1"):
        build(2, {"overlap_steps": 2})[2].load_state_dict(state)
    del state["snapshots"][1]
    with pytest.raises(ArgumentError, match=r"snapshots of the workers \[0\], and this process needs those of \[1\]"):
        build(2, OPTIONS[0])[2].load_state_dict(state)


def build_with(schedule, num_rows=2, **options):
    models = replicate(perceptron(), num_rows)
    optimizers = [OPTIMIZERS[1](m.parameters()) for m in models]
    return models, optimizers, LocalSGD(models, optimizers, schedule, **options)


def test_a_schedule_that_looks_at_the_rate_goes_on_as_if_nothing_had_happened():
    """Its rounds begin with the rate of the last sync that has landed, which is not the present one."""
    data = batches(40, 2)

    def steps_of_syncs(parts, stop):
        for step, row in enumerate(data, start=1):
            rate = 0.1 if step < 7 else 0.02
            for optimizer in parts[1]:
                optimizer.param_groups[0]["lr"] = rate
            if step > parts[2].steps:
                train(*parts, [row])
            if step == stop:
                resumed = build_with(QuadraticRule(4, 0.06), overlap_steps=3)
                load(resumed, save(*parts))
                parts = resumed
        parts[2].finish()
        return [report.step for report in parts[2].recent_syncs], parts

    unbroken, whole = steps_of_syncs(build_with(QuadraticRule(4, 0.06), overlap_steps=3), None)
    later, resumed = steps_of_syncs(build_with(QuadraticRule(4, 0.06), overlap_steps=3), 5)
    assert later == unbroken
    assert_alike(resumed, whole)


def test_who_asked_to_stop_is_not_stopped_again_when_what_was_under_way_lands():
    data = batches(12, 2)
    parts = build(2, {"overlap_steps": 3, "fragments": 2})
    train(*parts, data[:1])
    parts[2].request_stop()
    train(*parts, data[1:3])
    resumed = build(2, {"overlap_steps": 3, "fragments": 2})
    load(resumed, save(*parts))
    train(*resumed, data[3:])
    assert not resumed[2].stop_requested


def test_a_step_back_in_one_process_averages_blocks_again():
    data = batches(8, 4)
    options = {"topology": Topology((2, 2)), "overlap_steps": 3}
    parts = build_with(Hierarchical([2, 4]), 4, **options)
    train(*parts, data[:7])
    saved = save(*parts)
    train(*parts, data[7:])
    first = copy.deepcopy([model.state_dict() for model in parts[0]])
    load(parts, copy.deepcopy(saved))
    train(*parts, data[7:])
    for model, before in zip(parts[0], first, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(parts[0][0][0].weight, parts[0][1][0].weight), "a block is alike while a sync is under way"
