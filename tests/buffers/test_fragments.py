"""Rows cut into fragments of whole tensors, and the steps after which they sync."""

import pytest
import torch
from torch import nn

from localsgd import ArgumentError
from localsgd.buffers.fragments import cut_rows, due_step
from localsgd.buffers.layout import describe
from tests.equivalence.plain import convolutional
from tests.equivalence.test_streaming import FRAGMENTS


def sized(sizes, dtype=torch.float32):
    model = nn.Module()
    for index, size in enumerate(sizes):
        model.register_parameter(f"p{index}", nn.Parameter(torch.zeros(size, dtype=dtype)))
    return model


def members(layout, region):
    return [e.name for e in layout.parameters if region.start <= e.offset < region.stop]


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1], [100, 1, 1, 1], [1, 1, 1, 100], [3, 50, 7, 50, 2, 9, 33]])
def test_every_element_is_in_one_fragment_and_none_is_empty(sizes):
    (layout,) = describe(sized(sizes))
    for count in range(1, len(sizes) + 1):
        fragments = cut_rows([layout], count)
        regions = [fragment.regions[0] for fragment in fragments]
        assert [name for region in regions for name in members(layout, region)] == [f"p{i}" for i in range(len(sizes))]
        held = sum(region.stop - region.start for region in regions)
        assert held == layout.num_parameters
        assert [fragment.is_last for fragment in fragments] == [False] * (count - 1) + [True]


def test_fragments_are_balanced_by_size():
    (layout,) = describe(sized([30, 30, 30, 30, 60, 60, 120]))
    regions = [fragment.regions[0] for fragment in cut_rows([layout], 3)]
    assert [members(layout, region) for region in regions] == [["p0", "p1", "p2", "p3"], ["p4", "p5"], ["p6"]]


@pytest.mark.parametrize("count", FRAGMENTS)
def test_the_cut_that_other_tests_rely_on(count):
    (layout,) = describe(convolutional())
    found = [members(layout, fragment.regions[0]) for fragment in cut_rows([layout], count)]
    assert found == FRAGMENTS[count]


def test_fragments_go_on_over_dtypes():
    model = sized([8, 8])
    model.register_parameter("narrow", nn.Parameter(torch.zeros(32, dtype=torch.bfloat16)))
    layouts = describe(model)
    first, second = cut_rows(layouts, 2)
    assert [region.stop - region.start for region in first.regions] == [layouts[0].num_parameters, 0]
    assert [region.stop - region.start for region in second.regions] == [0, layouts[1].num_parameters]


def test_more_fragments_than_tensors_are_refused():
    (layout,) = describe(sized([4, 4]))
    with pytest.raises(ArgumentError, match=r"fragments=3 must be <= 2, the number of tensors that are averaged"):
        cut_rows([layout], 3)


@pytest.mark.parametrize(("length", "count"), [(10, 4), (7, 7), (3, 5), (1, 3), (100, 2)])
def test_fragments_are_spread_over_the_round_and_the_last_ends_it(length, count):
    steps = [due_step(20, 20 + length, fragment, num_fragments=count) for fragment in range(count)]
    assert steps == sorted(steps)
    assert steps[-1] == 20 + length
    assert steps[0] > 20
    gaps = [after - before for before, after in zip([20, *steps], steps, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_tensors_without_elements_make_no_fragment():
    (layout,) = describe(sized([0, 4, 0, 4, 0]))
    assert [f.regions[0] for f in cut_rows([layout], 2)] == [slice(0, 16), slice(16, 32)]
    with pytest.raises(ArgumentError, match="fragments=3 must be <= 2"):
        cut_rows([layout], 3)
