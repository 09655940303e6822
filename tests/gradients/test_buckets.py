"""How the vector of gradients is cut: every element once, whole gradients, in the order of backward, of bounded size."""

import itertools
import random

import pytest
import torch
from torch import nn

from localsgd import replicate
from localsgd.buffers.flat import FlatRows
from localsgd.buffers.layout import describe
from localsgd.gradients.buckets import GradientVector, cut_buckets, in_backward_order


def of_sizes(sizes, dtype=torch.float32, *, num_buffers=0):
    model = nn.Module()
    for index, size in enumerate(sizes):
        model.register_parameter(f"p{index}", nn.Parameter(torch.full((size,), float(index + 1), dtype=dtype)))
    if num_buffers:
        model.register_buffer("statistics", torch.zeros(num_buffers, dtype=dtype))
    return model


def draw(seed):
    numbers = random.Random(seed)
    sizes = [numbers.choice([1, 3, 7, 16, 17, 100, 1000, 2999]) for _ in range(numbers.randint(1, 30))]
    first, cap = numbers.choice([1, 64, 1000, 4096]), numbers.choice([64, 999, 4096, 1 << 20])
    return of_sizes(sizes, numbers.choice([torch.float32, torch.float64, torch.bfloat16]), num_buffers=5), first, cap


@pytest.mark.parametrize("seed", range(40))
def test_every_element_and_every_gradient_lies_in_exactly_one_bucket(seed):
    model, first_bytes, bucket_bytes = draw(seed)
    (layout,) = describe(model)
    buckets = cut_buckets(layout, group=0, first_bytes=first_bytes, bucket_bytes=bucket_bytes)
    length = layout.row_length + len(layout.parameters)
    assert buckets[0].region.start == 0
    assert buckets[-1].region.stop == length
    assert all(one.region.stop == other.region.start for one, other in itertools.pairwise(buckets))
    members = [index for bucket in reversed(buckets) for index in range(*bucket.members.indices(1 << 30))]
    assert members == list(range(len(layout.parameters)))
    entries = in_backward_order(layout)
    for bucket in buckets:
        for entry in entries[bucket.members]:
            assert bucket.region.start <= entry.offset
            assert entry.offset + entry.num_elements <= bucket.region.stop
    itemsize = layout.accumulation_dtype.itemsize
    for index, bucket in enumerate(buckets):
        stop = min(bucket.region.stop, layout.num_parameters)
        is_single = len(entries[bucket.members]) == 1
        assert is_single or (stop - bucket.region.start) * itemsize <= (bucket_bytes if index else first_bytes)


@pytest.mark.parametrize("seed", range(10))
def test_gradients_that_were_read_are_found_in_their_places_and_gaps_stay_zero(seed):
    model, _, _ = draw(seed)
    rows = FlatRows([model])
    (group,) = rows.groups
    parameters = group.parameters(0)
    for parameter in parameters:
        parameter.grad = parameter.detach().clone()
    parameters[0].grad = None
    vector = GradientVector(group)
    vector.values.fill_(-1)
    vector.gradients.zero_()
    found = vector.read_(parameters, slice(None))
    assert [gradient is None for gradient in found] == [True] + [False] * (len(parameters) - 1)
    assert torch.equal(vector.views[0], torch.zeros_like(vector.views[0]))
    for view, parameter in zip(vector.views[1:], parameters[1:], strict=True):
        assert torch.equal(view, parameter.detach().to(view.dtype))
    total = sum(float(parameter.detach().double().sum()) for parameter in parameters[1:])
    assert float(vector.gradients.double().sum()) == pytest.approx(total)
    assert bool((vector.tail == -1).all())


def test_what_backward_reaches_first_is_sent_first():
    (layout,) = describe(of_sizes([100, 200, 300]))
    buckets = cut_buckets(layout, group=2, first_bytes=1300, bucket_bytes=1 << 20)
    assert [(bucket.group, bucket.members) for bucket in buckets] == [(2, slice(2, 3)), (2, slice(0, 2))]


def test_a_small_model_is_one_bucket():
    (layout,) = describe(nn.Linear(3, 3))
    (bucket,) = cut_buckets(layout, group=0, first_bytes=1 << 20, bucket_bytes=1 << 20)
    assert bucket.region == slice(0, layout.row_length + 2)


def test_several_rows_share_one_layout():
    models = replicate(of_sizes([5, 6]), 3)
    (group,) = FlatRows(models).groups
    vector = GradientVector(group)
    for row in range(3):
        for parameter in group.parameters(row):
            parameter.grad = torch.full_like(parameter, float(row))
        vector.read_(group.parameters(row), slice(None))
        assert all(bool((view == row).all()) for view in vector.views)


def test_a_bucket_may_be_full_to_the_last_byte():
    (layout,) = describe(of_sizes([16, 16, 16]))  # 64 bytes each, without gaps
    buckets = cut_buckets(layout, group=0, first_bytes=128, bucket_bytes=128)
    assert [bucket.members for bucket in buckets] == [slice(1, 3), slice(0, 1)]


def test_where_there_is_no_gradient_any_more_the_last_one_is_not_sent_again():
    (group,) = FlatRows([of_sizes([5, 6])]).groups
    first, second = group.parameters(0)
    vector = GradientVector(group)
    for parameter in (first, second):
        parameter.grad = torch.ones_like(parameter)
    vector.read_([first, second], slice(None))
    first.grad = None
    vector.read_([first, second], slice(None))
    assert [view.unique().tolist() for view in vector.views] == [[0.0], [1.0]]
