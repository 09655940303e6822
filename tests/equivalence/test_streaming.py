"""Fragments that sync in turn, against the rule written down naively in plain torch."""

import pytest
import torch
from torch.optim import SGD

from localsgd import BlockMomentum, Every, Hierarchical, LocalSGD, Nesterov, PostLocal, Topology, replicate
from tests.equivalence.late import Rules, train_late
from tests.equivalence.plain import OPTIMIZERS, batches, convolutional, loss_of, perceptron
from tests.equivalence.running import floats, train_rows

WIDE = torch.float64
# What cut_rows makes of the convolutional model: checked in the test of its name.
FRAGMENTS = {
    2: [["1.weight", "2.weight", "2.bias", "4.weight"], ["5.weight", "5.bias", "8.weight", "8.bias"]],
    3: [["1.weight", "2.weight", "2.bias"], ["4.weight", "5.weight"], ["5.bias", "8.weight", "8.bias"]],
}


@pytest.mark.parametrize(
    ("count", "overlap_steps", "momentum"), [(2, 0, None), (3, 0, 0.5), (3, 1, None), (3, 5, 0.5), (2, 3, 0.5)]
)
def test_fragments_follow_the_rule(count, overlap_steps, momentum):
    data = batches(10, 2, dtype=WIDE)
    rules = Rules(period=6, overlap_steps=overlap_steps, momentum=momentum, fragments=FRAGMENTS[count])
    theirs = train_late(convolutional(WIDE), OPTIMIZERS[1], data, rules)
    outer = {} if momentum is None else {"outer": BlockMomentum(momentum)}
    ours, local, _ = train_rows(
        convolutional(WIDE), OPTIMIZERS[1], data, Every(6), fragments=count, overlap_steps=overlap_steps, **outer
    )
    for mine, other in zip(ours, theirs, strict=True):
        for name, tensor in floats(other).items():
            torch.testing.assert_close(floats(mine)[name], tensor, rtol=0, atol=1e-12)
    assert local.is_synced


def test_fragments_of_processes_follow_the_same_rule(processes):
    data = batches(9, 4, dtype=WIDE)
    rules = Rules(period=6, overlap_steps=2, mixing=0.5, momentum=0.5, fragments=FRAGMENTS[3])
    theirs = train_late(convolutional(WIDE), OPTIMIZERS[1], data, rules)
    results = processes(split_fragments, 2, data)
    for mine, other in zip([state for states, _ in results for state in states], theirs, strict=True):
        for name, tensor in floats(other).items():
            torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-12)
    assert results[0][1] == results[1][1]


def split_fragments(data):
    options = {"outer": BlockMomentum(0.5), "fragments": 3, "overlap_steps": 2, "overlap_mixing": 0.5}
    models, local, _ = train_rows(convolutional(WIDE), OPTIMIZERS[1], data, Every(6), **options)
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    return states, (local.totals.rounds, local.totals.bytes_by_level, local.totals.wire_bytes)


def test_a_round_syncs_every_element_once():
    models = replicate(convolutional(), 2)
    local = LocalSGD(models, [OPTIMIZERS[0](m.parameters()) for m in models], Every(6), fragments=3)
    synced = dict.fromkeys((name for name, _ in models[0].named_parameters()), 0)
    order = []
    for row in batches(12, 2):
        for index, batch in enumerate(row):
            models[index].zero_grad()
            loss_of(models[index], batch).backward()
            local.step(row=index)
        alike = [
            name
            for name, parameter in models[0].named_parameters()
            if torch.equal(parameter, models[1].get_parameter(name))
        ]
        if local.last_sync is not None and local.last_sync.step == local.steps:
            order.append((local.steps, local.last_sync.fragment))
            for name in alike:
                synced[name] += 1
            assert len(alike) < len(synced), "a fragment leaves the others as they are"
        else:
            assert not alike
    assert order == [(2, 0), (4, 1), (6, 2), (8, 0), (10, 1), (12, 2)]
    assert set(synced.values()) == {2}
    layout = local.rows.groups[0].layout
    payload = (layout.num_parameters + layout.num_buffers + 3 * 16) * 4
    assert local.totals.bytes_sent == 2 * payload, "two workers send each element once a round, and facts three times"


def test_one_fragment_is_the_ordinary_sync_bit_for_bit():
    data = batches(9, 3)
    plain, local, log = train_rows(convolutional(), OPTIMIZERS[1], data, Every(4), outer=Nesterov())
    ours, same, own_log = train_rows(convolutional(), OPTIMIZERS[1], data, Every(4), outer=Nesterov(), fragments=1)
    assert log == own_log
    assert "overlap" not in same.state_dict()
    assert "overlap" not in local.state_dict()
    for mine, other in zip(ours, plain, strict=True):
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in mine.state_dict().items())


def test_each_fragment_has_an_outer_state_of_its_own():
    models = replicate(convolutional(), 2)
    optimizers = [OPTIMIZERS[0](m.parameters()) for m in models]
    local = LocalSGD(models, optimizers, Every(6), fragments=3, outer=Nesterov(momentum=0.5))
    for row in batches(2, 2):
        for index, batch in enumerate(row):
            models[index].zero_grad()
            loss_of(models[index], batch).backward()
            local.step(row=index)
    moved = [bool(state["velocity"].any()) for state in local.state_dict()["outer_state"]]
    assert moved == [True, False, False], "only the first fragment has synced"
    lengths = [state["velocity"].numel() for state in local.state_dict()["outer_state"]]
    assert sum(lengths) == local.rows.groups[0].layout.num_parameters


@pytest.mark.parametrize("overlap_steps", [0, 2])
def test_blocks_are_alike_when_everyones_fragments_have_gone_by(overlap_steps):
    models = replicate(convolutional(), 4)
    optimizers = [OPTIMIZERS[0](m.parameters()) for m in models]
    options = {"topology": Topology((2, 2)), "fragments": 3, "overlap_steps": overlap_steps}
    local = LocalSGD(models, optimizers, Hierarchical([4, 2]), **options)
    for row in batches(16, 4):
        for index, batch in enumerate(row):
            models[index].zero_grad()
            loss_of(models[index], batch).backward()
            local.step(row=index)
        if local.steps % 4 == 0:
            for first, second in (models[:2], models[2:]):
                for mine, other in zip(first.parameters(), second.parameters(), strict=True):
                    assert torch.equal(mine, other), f"after step {local.steps}"
    local.finish()
    for model in models[1:]:
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), models[0].parameters(), strict=True))


def test_after_rounds_of_one_step_there_is_nothing_left_to_do():
    models = replicate(perceptron(), 2)
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    local = LocalSGD(models, optimizers, PostLocal(100, 8), fragments=2, outer=BlockMomentum(0.5))
    for row in batches(5, 2):
        for index, model in enumerate(models):
            loss_of(model, row[index]).backward()
            local.step(row=index)
            optimizers[index].zero_grad()
    before = [parameter.detach().clone() for parameter in models[0].parameters()]
    assert local.is_synced
    assert local.finish() is None
    assert all(torch.equal(old, new) for old, new in zip(before, models[0].parameters(), strict=True))
