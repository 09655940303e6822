"""Vectors longer than a chunk, and values at the edge of what floats can hold."""

import math

import pytest
import torch

from localsgd.buffers.arithmetic import (
    CHUNK_ELEMENTS,
    add_scaled_,
    are_finite,
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
