"""Buckets hold every element exactly once, whatever the sizes, and need no more memory than one of them."""

import random

import pytest
import torch

from localsgd import ArgumentError
from localsgd.buffers.buckets import cut_windows, exchange_in_buckets_
from tests.allocations import peak_bytes

ODD = [[0], [1], [7], [0, 0, 5, 0], [64, 1, 63], [65], [1] * 130, [200, 0, 3, 129, 1]]


def visits(lengths, capacity):
    """How often each element of each tensor is in a bucket, and the elements of each bucket that are used."""
    seen = [[0] * length for length in lengths]
    used = []
    for windows in cut_windows(lengths, capacity=capacity):
        places = [index for window in windows for index in range(window.place.start, window.place.stop)]
        used.append(places)
        for window in windows:
            assert window.region.stop - window.region.start == window.place.stop - window.place.start > 0
            for index in range(window.region.start, window.region.stop):
                seen[window.piece][index] += 1
    return seen, used


@pytest.mark.parametrize("capacity", [1, 2, 63, 64, 65, 1000])
@pytest.mark.parametrize("lengths", ODD)
def test_every_element_is_in_exactly_one_bucket(lengths, capacity):
    seen, used = visits(lengths, capacity)
    assert seen == [[1] * length for length in lengths]
    assert used == [[*range(len(places))] for places in used]
    assert [len(places) for places in used[:-1]] == [capacity] * (len(used) - 1)
    assert len(used) == -(-sum(lengths) // capacity)


def test_every_element_is_in_exactly_one_bucket_for_random_sizes():
    draw = random.Random(0)
    for _ in range(200):
        lengths = [draw.choice([0, 1, draw.randrange(1, 50)]) for _ in range(draw.randrange(1, 20))]
        seen, _ = visits(lengths, draw.randrange(1, 40))
        assert seen == [[1] * length for length in lengths]


def test_a_bucket_of_nothing_is_refused():
    with pytest.raises(ArgumentError, match=r"capacity=0 must be >= 1"):
        cut_windows([1], capacity=0)


def mixed_tensors():
    torch.manual_seed(0)
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32, torch.float64]
    return [torch.randn(n).to(dtype) for n, dtype in zip([5, 33, 1, 0, 100, 31], dtypes, strict=True)]


@pytest.mark.parametrize("bucket_bytes", [1, 8, 100, 1 << 20])
def test_tensors_of_all_dtypes_come_back_bit_for_bit_when_nothing_happens_to_them(bucket_bytes):
    tensors = [*mixed_tensors(), torch.tensor(3.5).view(1)]
    before = [tensor.clone() for tensor in tensors]
    sizes = []
    exchange_in_buckets_(
        tensors,
        lambda bucket: sizes.append(bucket.numel() * bucket.element_size()),
        scales=[1] * len(tensors),
        bucket_bytes=bucket_bytes,
    )
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert max(sizes) <= max(bucket_bytes, 8)  # a float64 is the least there can be


def test_each_tensor_gets_its_own_result_and_its_own_scale():
    tensors = mixed_tensors()
    expected = [(tensor.to(torch.float64) * 2 * (i + 1)).to(tensor.dtype) for i, tensor in enumerate(tensors)]
    exchange_in_buckets_(
        tensors, lambda bucket: bucket.mul_(2), scales=[i + 1 for i in range(len(tensors))], bucket_bytes=48
    )
    for tensor, right in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor, right)


def test_a_sum_that_half_precision_cannot_hold_is_divided_before_it_is_rounded():
    tensor = torch.tensor([60000.0, 1.001], dtype=torch.float16)
    exchange_in_buckets_([tensor], lambda bucket: bucket.mul_(3), scales=[1 / 3], bucket_bytes=64)
    assert tensor.tolist() == torch.tensor([60000.0, 1.001], dtype=torch.float16).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_taken_is_that_of_one_bucket_however_large_the_tensors_are(dtype):
    tensors = [torch.zeros(n, dtype=dtype) for n in (100_000, 3, 0, 70_001, 200_000)]

    def exchange():
        exchange_in_buckets_(tensors, lambda bucket: None, scales=[0.5] * len(tensors), bucket_bytes=4096)

    exchange()
    assert 4096 <= peak_bytes(exchange) < 4096 + 512


def test_small_tensors_take_no_more_memory_than_they_have():
    tensors = [torch.zeros(10), torch.zeros(20)]

    def exchange():
        exchange_in_buckets_(tensors, lambda bucket: None, scales=[1, 1], bucket_bytes=1 << 25)

    assert peak_bytes(exchange) < 1024


def test_the_last_bucket_ends_with_the_last_tensor():
    sizes = []
    tensors = [torch.ones(7), torch.ones(4)]
    exchange_in_buckets_(tensors, lambda bucket: sizes.append(bucket.numel()), scales=[1, 1], bucket_bytes=16)
    assert sizes == [4, 4, 3]
