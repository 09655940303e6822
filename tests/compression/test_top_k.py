import pytest
import torch

from localsgd import ArgumentError
from localsgd.compression import TopK

LARGE = 200_003  # long enough to look at a sample first


def there_and_back(fraction, vector):
    compressor = TopK(fraction)
    return compressor.decode(compressor.encode(vector), vector.numel())


KINDS = {
    "normal": lambda normal: normal,
    "heavy tails": lambda normal: normal**5,
    "sorted": lambda normal: normal.sort().values,
    "all large values side by side": lambda normal: torch.cat([normal[:5000] * 1e6, normal[5000:]]),
    "large values where no sample is taken": lambda normal: normal * (torch.arange(LARGE) % (LARGE >> 14) != 0),
    "mostly zeros": lambda normal: normal * (torch.arange(LARGE) % 997 == 0),
}


@pytest.mark.parametrize("fraction", [1e-5, 0.001, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_values_arrive_exactly_and_the_others_are_zero(kind, fraction):
    vector = KINDS[kind](torch.randn(LARGE, generator=torch.Generator().manual_seed(0)))
    decoded = there_and_back(fraction, vector)
    kept = decoded != 0
    assert torch.equal(decoded[kept], vector[kept])
    order = vector.abs().sort(descending=True).values[: max(1, round(fraction * LARGE))]
    assert torch.equal(decoded.abs().sort(descending=True).values[: order.numel()], order)
    assert kept.sum() <= order.numel()


def test_it_looks_at_all_values_where_only_those_of_the_sample_are_large():
    vector = torch.randn(LARGE, generator=torch.Generator().manual_seed(0))
    vector[:: LARGE >> 14] *= 1e6
    assert torch.equal(there_and_back(0.1, vector), there_and_back(1.0, vector) * is_among_largest(vector, 20_000))


def is_among_largest(vector, count):
    return vector.abs() >= vector.abs().sort(descending=True).values[count - 1]


def test_equal_values_do_not_make_it_send_more_or_fewer():
    assert there_and_back(0.01, torch.ones(LARGE)).sum() == 2000
    assert there_and_back(0.25, torch.ones(8)).sum() == 2


@pytest.mark.parametrize("num_bad", [1, 3000])
def test_a_nan_is_always_among_the_largest(num_bad):
    vector = torch.randn(LARGE, generator=torch.Generator().manual_seed(0))
    vector[7 : 7 + num_bad] = float("nan")
    assert there_and_back(0.01, vector).isnan().sum() == min(num_bad, 2000)


def test_a_payload_is_eight_bytes_a_value_that_is_sent():
    assert [TopK(0.01).num_bytes(length) for length in (0, 1, 100, 149, 151, 1000)] == [0, 8, 8, 8, 16, 80]
    assert TopK(1).num_bytes(3) == 24


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), "all"])
def test_a_fraction_of_nothing_or_more_than_all_is_refused(fraction):
    with pytest.raises(ArgumentError, match=rf"fraction={fraction!r} must be in \(0, 1\]; TopK\(0\.01\) sends"):
        TopK(fraction)
