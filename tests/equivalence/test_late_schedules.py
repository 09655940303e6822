"""Schedules that look at what syncs tell, where syncs land late: a resumed run goes by the syncs before it."""

import pytest
import torch

from localsgd import BlockMomentum, Every, Hierarchical, QuadraticRule, Sequence, Topology
from tests.equivalence.plain import batches
from tests.equivalence.test_late_resume import assert_alike, build_with, load, save, train


def steps_of_syncs(stop, data):
    parts = build_with(QuadraticRule(4, 0.06), overlap_steps=1)
    for step, row in enumerate(data, start=1):
        for optimizer in parts[1]:
            optimizer.param_groups[0]["lr"] = 0.1 if step < 7 else 0.02
        train(*parts, [row])
        if step == stop:
            saved, parts = save(*parts), build_with(QuadraticRule(4, 0.06), overlap_steps=1)
            load(parts, saved)
    return [report.step for report in parts[2].recent_syncs if report.step > (stop or 0)]


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_a_round_that_begins_before_anything_has_landed_again_goes_by_the_rate_before_the_stop(stop):
    data = batches(22, 2)
    unbroken = steps_of_syncs(None, data)
    # The round after step 8 goes by what the sync after step 4 has told; the present rate would make it 9 steps long.
    assert unbroken[:3] == [4, 8, 12]
    assert unbroken[3] == 21
    assert steps_of_syncs(stop, data) == unbroken[1:]


def test_in_short_rounds_several_fragments_start_after_the_same_step():
    schedule = Sequence([(4, Every(2)), (None, Every(4))])
    parts = build_with(schedule, fragments=4)
    train(*parts, batches(8, 2))
    found = [(report.step, report.fragment) for report in parts[2].recent_syncs]
    assert found[:4] == [(1, 0), (1, 1), (2, 2), (2, 3)]
    assert found[8:] == [(5, 0), (6, 1), (7, 2), (8, 3)]


@pytest.mark.parametrize("stop", [4, 6, 8])
def test_a_run_resumed_just_before_it_ends_does_not_step_fragments_once_more_that_have_just_been_synced(stop):
    data, options = batches(stop, 2), {"fragments": 4, "outer": BlockMomentum(0.5)}
    unbroken = build_with(Every(4), **options)
    train(*unbroken, data)
    resumed = build_with(Every(4), **options)
    load(resumed, save(*unbroken))
    for parts in (unbroken, resumed):
        parts[2].finish()
    assert_alike(resumed, unbroken)


def test_the_loss_told_at_the_end_of_a_round_is_that_of_all_its_steps():
    parts = build_with(Every(4), fragments=2)
    for step, row in enumerate(batches(8, 2), start=1):
        parts[2].observe(float(step**2))
        train(*parts, [row])
    found = [(report.step, report.train_loss) for report in parts[2].recent_syncs]
    assert found == [(2, 2.5), (4, 7.5), (6, 30.5), (8, 43.5)]


def test_workers_of_a_block_are_alike_as_soon_as_a_fragment_of_everyones_is_under_way():
    schedule = Hierarchical([Every(100), Every(4)])
    parts = build_with(schedule, 4, topology=Topology((2, 2)), fragments=2, overlap_steps=1)
    train(*parts, batches(2, 4))
    first, second, third, fourth = (torch.cat([p.detach().view(-1) for p in m.parameters()]) for m in parts[0])
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(first, third)
