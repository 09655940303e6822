"""Overlap and fragments that cannot be honoured are refused at construction, with the reason."""

import pytest
import torch
from torch import nn

from localsgd import (
    ArgumentError,
    Decreasing,
    DriftTriggered,
    Every,
    EverySeconds,
    Hierarchical,
    LocalSGD,
    Never,
    PostLocal,
    QuadraticRule,
    Sequence,
    Topology,
    Warmup,
    replicate,
)
from localsgd.compression import Int8
from localsgd.late.round_lengths import longest_round
from tests.faults.test_compression_options import OnlySums


def build(schedule=None, num_rows=4, **options):
    models = replicate(nn.Linear(4, 2), num_rows)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    return LocalSGD(models, optimizers, schedule or Every(4), **options)


@pytest.mark.parametrize(
    ("schedule", "longest"),
    [
        (Every(4), 4),
        (PostLocal(100, 8), 8),
        (Warmup(8, num_rounds=5), 8),
        (Decreasing(16), 16),
        (Sequence([(3, Every(8)), (10, Every(4)), (None, Every(2))]), 4),
        (Sequence([(9, Never()), (None, Every(2))]), 9),
        (Sequence([(9, Every(4)), (None, Never())]), None),
        (QuadraticRule(2, 0.1), None),
        (Never(), None),
    ],
    ids=repr,
)
def test_the_longest_round_is_known_where_it_is_fixed_in_advance(schedule, longest):
    assert longest_round(schedule) == longest


@pytest.mark.parametrize("schedule", [Every(4), PostLocal(9, 4), Warmup(4, num_rounds=3), Sequence([(None, Every(4))])])
def test_an_overlap_of_a_whole_round_is_refused(schedule):
    with pytest.raises(ArgumentError, match=r"overlap_steps=4 must be < 4, the longest round of .*use 3 at most"):
        build(schedule, overlap_steps=4)
    with pytest.raises(ArgumentError, match=r"fragments=5 must be <= 4, the longest round"):
        build(schedule, fragments=5, num_rows=1)
    assert build(schedule, overlap_steps=3).next_sync is not None


def test_the_round_of_everyone_counts_where_there_are_levels():
    options = {"topology": Topology((2, 2))}
    assert build(Hierarchical([2, 3]), overlap_steps=5, **options).next_sync == 2
    with pytest.raises(ArgumentError, match="overlap_steps=6 must be < 6"):
        build(Hierarchical([2, 3]), overlap_steps=6, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap_steps": -1}, "overlap_steps=-1 must be >= 0; 0 waits for each sync"),
        ({"overlap_steps": 1.5}, "overlap_steps=1.5 must be a whole number"),
        ({"fragments": 0}, "fragments=0 must be >= 1; 1 syncs all parameters at once"),
        ({"fragments": 3}, "fragments=3 must be <= 2, the number of tensors"),
        ({"overlap_mixing": 0.5}, "overlap_mixing=0.5 needs overlap_steps >= 1"),
        ({"overlap_steps": 1, "overlap_mixing": 1.0}, r"overlap_mixing=1.0 must be in \[0, 1\)"),
        ({"overlap_steps": 1, "compression": "int8"}, "compression='int8' must be a compressor"),
        ({"overlap_steps": 1, "compression": [Int8(), None]}, r"has 2 entries for 1 level\(s\)"),
        ({"overlap_steps": 1, "optimizer_state": "average"}, "cannot be combined with optimizer_state='average'"),
        ({"fragments": 2, "optimizer_state": "reset"}, "fragments=2 cannot be combined with optimizer_state='reset'"),
        ({"fragments": 2, "non_finite": "exclude"}, "cannot be combined with non_finite='exclude'.*spoils"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        build(**options)


@pytest.mark.parametrize("schedule", [EverySeconds(1.0), DriftTriggered(0.1, 8)])
@pytest.mark.parametrize("options", [{"overlap_steps": 1}, {"fragments": 2}])
def test_rounds_that_end_by_what_is_watched_are_refused(schedule, options):
    with pytest.raises(ArgumentError, match="its rounds end by what is watched"):
        build(schedule, **options)


def test_a_schedule_that_looks_at_the_loss_of_a_sync_is_refused():
    with pytest.raises(ArgumentError, match=r"overlap_steps=2 cannot be combined with .*it decides by the loss"):
        build(Sequence([(8, Every(4)), (None, Decreasing(8))]), overlap_steps=2)
    assert build(Decreasing(8), fragments=2).next_sync == 4


@pytest.mark.parametrize("options", [{"overlap_steps": 1}, {"fragments": 2}, {"overlap_steps": 3, "fragments": 2}])
def test_compression_goes_with_all_of_it_level_by_level(options):
    assert build(compression=Int8(), **options).next_sync is not None
    levels = {"topology": Topology((2, 2)), "compression": [None, Int8()]}
    assert build(Hierarchical([2, 3]), **levels, **options).next_sync is not None
    with pytest.raises(ArgumentError, match=r"level 1 has Int8\(.*only the last level can have a compressor"):
        build(Hierarchical([2, 3]), **levels | {"compression": [Int8(), None]}, **options)


class OnlySumsLate(OnlySums):
    """A communicator that overlaps sums, and cannot carry payloads."""

    def twin(self):
        return self

    def start_all_reduce_(self, vector):
        return lambda: None


def test_a_communicator_without_payloads_is_refused():
    assert build(num_rows=1, communicator=OnlySumsLate(), overlap_steps=1).next_sync == 4
    with pytest.raises(ArgumentError, match="cannot carry payloads; use Processes"):
        build(num_rows=1, communicator=OnlySumsLate(), overlap_steps=1, compression=Int8())


def test_a_communicator_without_a_twin_is_refused():
    with pytest.raises(
        ArgumentError, match=r"communicator of OnlySums, which cannot sum while this process computes \(it"
    ):
        build(num_rows=1, communicator=OnlySums(), overlap_steps=1)
