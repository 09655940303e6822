"""Vectors longer than a chunk, and values at the edge of what floats can hold."""

import math

import pytest
import torch

from localsgd.buffers import arithmetic
from localsgd.buffers.arithmetic import (
    CHUNK_ELEMENTS,
    Scan,
    add_rows_,
    add_scaled_,
    are_finite,
    fill_rows_,
    is_finite,
    scale_and_check_,
    squared_distance,
    squared_norm,
)

SIZES = [0, 1, 17, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 3 * CHUNK_ELEMENTS - 5]


@pytest.mark.parametrize("size", SIZES)
def test_scaling_touches_every_element_once(size):
    vector = torch.arange(size, dtype=torch.float64)
    assert scale_and_check_(vector, 0.5)
    assert torch.equal(vector, torch.arange(size, dtype=torch.float64) / 2)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_value_that_is_not_finite_is_found_anywhere(size, value, place, dtype):
    vector = torch.ones(size, dtype=dtype)
    assert is_finite(vector)
    vector[place] = value
    assert not is_finite(vector)
    assert not scale_and_check_(vector, 0.5)


@pytest.mark.parametrize("place", range(4))
def test_one_value_that_is_not_finite_is_found_in_any_of_several_vectors_of_any_dtype(place):
    vectors = [torch.ones(3), torch.ones(5, dtype=torch.float64), torch.ones(2, dtype=torch.bfloat16), torch.ones(1)]
    before = [vector.clone() for vector in vectors]
    assert are_finite([])
    assert are_finite([*vectors, torch.empty(0)])
    assert all(torch.equal(vector, old) for vector, old in zip(vectors, before, strict=True))
    vectors[place][-1] = math.nan
    assert not are_finite([*vectors, torch.empty(0)])


def test_two_infinities_that_cancel_are_found():
    assert not is_finite(torch.tensor([math.inf, -math.inf, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_sum_that_overflows_does_not_condemn_finite_values(dtype):
    assert is_finite(torch.full((CHUNK_ELEMENTS + 3,), torch.finfo(dtype).max, dtype=dtype))


@pytest.mark.parametrize("size", SIZES)
def test_adding_and_distances_agree_with_torch(size):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, size, generator=generator, dtype=torch.float64)
    total = first.clone()
    add_scaled_(total, second, 0.25)
    torch.testing.assert_close(total, first + 0.25 * second)
    assert squared_distance(first, second) == pytest.approx(float((first - second).square().sum()), rel=1e-12)
    assert squared_norm(first) == pytest.approx(float(first.square().sum()), rel=1e-12)


def test_half_precision_is_added_in_the_targets_precision():
    target = torch.full((5,), 1024.0)
    add_scaled_(target, torch.full((5,), 0.5, dtype=torch.float16), 0.25)
    assert target.tolist() == [1024.125] * 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_scan_does_the_same_each_time_also_after_it_has_found_something(dtype):
    vector = torch.full((7,), 3.0, dtype=dtype)
    scan = Scan(vector, 1 / 3)
    reference = vector.clone()
    for value, is_whole in [(3.0, True), (math.inf, False), (3.0, True), (math.nan, False), (3.0, True)]:
        for own in (vector, reference):
            own.fill_(3.0)[-1] = value
        assert scan.run_() is is_whole
        assert scale_and_check_(reference, 1 / 3) is is_whole
        assert torch.equal(vector.nan_to_num(), reference.nan_to_num())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_added_together_are_bit_for_bit_those_added_one_by_one(size, dtype):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(size, generator=generator).to(dtype) for _ in range(3)]
    together, one_by_one = torch.ones(size), torch.ones(size)
    add_rows_(together, rows, [0.1, 1.0, -3.7])
    for row, scale in zip(rows, [0.1, 1.0, -3.7], strict=True):
        add_scaled_(one_by_one, row, scale)
    assert torch.equal(together, one_by_one)


@pytest.mark.parametrize("size", SIZES)
def test_every_row_is_filled_and_nothing_else(size):
    whole = torch.zeros(4, size + 5)
    fill_rows_(whole[1:, :size], torch.arange(size, dtype=torch.float32))
    assert torch.equal(whole[1:, :size], torch.arange(size, dtype=torch.float32).expand(3, size))
    assert not whole[0].any()
    assert not whole[:, size:].any()


def test_a_scan_by_zero_is_none_the_worse_for_what_others_have_found():
    vector = torch.ones(3)
    scan = Scan(vector, 0.0)
    assert not scale_and_check_(torch.tensor([math.nan]), 1.0)
    assert scan.run_()
    assert not vector.any()


def test_a_scan_that_began_while_evaluating_serves_training_as_well():
    arithmetic._flag.cache_clear()
    arithmetic._scalars.cache_clear()
    with torch.inference_mode():
        assert not arithmetic.scale_and_check_(torch.tensor([1.0, torch.nan]), 1)
    vector = torch.tensor([1.0, 2.0])
    assert arithmetic.scale_and_check_(vector, 0.5)
    assert vector.tolist() == [0.5, 1.0]
