"""Int8 and Int4: what they round to, and how."""

import pytest
import torch

from localsgd import ArgumentError
from localsgd.compression import Int4, Int8

KINDS = [(Int8, 127), (Int4, 7)]


def random_vector(length, seed=0):
    return torch.randn(length, generator=torch.Generator().manual_seed(seed)) * 1e-3


def plain(vector, block, largest):
    """Value by value, in Python's own numbers."""
    decoded = []
    for begin in range(0, len(vector), block):
        values = vector[begin : begin + block].tolist()
        scale = max(map(abs, values)) / largest
        decoded += [round(value / scale) * scale for value in values]
    return torch.tensor(decoded)


@pytest.mark.parametrize(("kind", "largest"), KINDS)
@pytest.mark.parametrize(("length", "block"), [(1000, 64), (1000, 1000), (1000, 5000), (64, 64), (65, 64), (3, 1)])
def test_each_value_is_the_nearest_multiple_of_its_blocks_scale(kind, largest, length, block):
    vector, compressor = random_vector(length), kind(block)
    decoded = compressor.decode(compressor.encode(vector), length)
    torch.testing.assert_close(decoded, plain(vector, block, largest), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("kind", "largest"), KINDS)
def test_the_largest_value_of_a_block_arrives_to_rounding(kind, largest):
    vector = random_vector(64)
    decoded = kind(64).decode(kind(64).encode(vector), 64)
    place = vector.abs().argmax()
    torch.testing.assert_close(decoded[place], vector[place], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("compressor", "length", "size"),
    [
        (Int8(), 1024, 1024 + 4 * 4),
        (Int8(), 1025, 1028 + 5 * 4),
        (Int8(100), 250, 252 + 3 * 4),
        (Int4(), 1024, 512 + 16 * 4),
        (Int4(), 1025, 516 + 17 * 4),
        (Int4(1), 3, 4 + 3 * 4),
    ],
)
def test_payloads_hold_codes_and_a_scale_a_block_and_nothing_else(compressor, length, size):
    assert compressor.num_bytes(length) == compressor.encode(random_vector(length)).numel() == size


@pytest.mark.parametrize(("kind", "largest"), KINDS)
def test_stochastic_rounding_is_right_on_average_and_nearest_is_not(kind, largest):
    num_values, num_draws = 500, 4000
    vector, generator = random_vector(num_values), torch.Generator().manual_seed(0)
    compressor = kind(num_values, rounding="stochastic")
    total = torch.zeros(num_values, dtype=torch.float64)
    for _ in range(num_draws):
        total += compressor.decode(compressor.encode(vector, generator=generator), num_values)
    # One rounding has a standard deviation of at most half a scale. The largest of 500 normal numbers stays below 5 standard
    # deviations but once in 3,500 seeds; 16 random bits add a bias of at most 2^-17 scales, which is 1/5000 of that.
    scale = vector.abs().max() / largest
    band = 5 * scale / 2 / num_draws**0.5
    assert (total / num_draws - vector).abs().max() < band
    nearest = kind(num_values).decode(kind(num_values).encode(vector), num_values)
    assert ((nearest - vector).abs() > band).float().mean() > 0.8  # the band is 4% of a scale: nearest is beyond it


@pytest.mark.parametrize(("kind", "largest"), KINDS)
def test_stochastic_rounding_goes_to_one_of_the_two_neighbours(kind, largest):
    vector = random_vector(500)
    compressor = kind(500, rounding="stochastic")
    decoded = compressor.decode(compressor.encode(vector, generator=torch.Generator().manual_seed(0)), 500)
    scale = vector.abs().max() / largest
    assert ((decoded - vector).abs() < 1.0001 * scale).all()
    assert ((decoded - vector).abs() > 0.5001 * scale).any()


@pytest.mark.parametrize(("kind", "largest"), KINDS)
def test_values_that_are_multiples_already_are_never_moved(kind, largest):
    vector = torch.arange(-largest, largest + 1.0)
    compressor = kind(vector.numel(), rounding="stochastic")
    for seed in range(50):
        payload = compressor.encode(vector, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(compressor.decode(payload, vector.numel()), vector)


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_a_value_that_is_not_finite_spoils_its_own_block_only(kind):
    vector = random_vector(256)
    vector[70] = float("inf")
    decoded = kind(64).decode(kind(64).encode(vector), 256)
    assert [bool(torch.isfinite(block).all()) for block in decoded.split(64)] == [True, False, True, True]


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_bad_arguments_are_refused(kind):
    with pytest.raises(ArgumentError, match="block=0 must be >= 1"):
        kind(0)
    with pytest.raises(ArgumentError, match=r"block=2\.5 must be a whole number"):
        kind(2.5)
    with pytest.raises(ArgumentError, match="rounding='up' is not known; known: nearest, stochastic"):
        kind(rounding="up")
    with pytest.raises(ArgumentError, match=r"generator=None must be a torch\.Generator"):
        kind(rounding="stochastic").encode(torch.ones(3))


@pytest.mark.parametrize(("kind", "largest"), KINDS)
def test_halves_are_rounded_alike_on_both_sides_of_zero(kind, largest):
    vector = torch.arange(-2 * largest, 2 * largest + 1) / 2
    decoded = kind(vector.numel()).decode(kind(vector.numel()).encode(vector), vector.numel())
    assert torch.equal(decoded, -decoded.flip(0))


@pytest.mark.parametrize(("kind", "largest"), KINDS)
def test_stochastic_rounding_does_not_lose_what_is_smaller_than_its_smallest_chance(kind, largest):
    """Of a million values that are 3/4 of 2^-16 scales, 12 should go up; with chances of 2^-16 that are 16, never none."""
    vector = torch.full((1 << 20,), 0.75 * 2.0**-16)
    vector[0] = largest
    compressor = kind(vector.numel(), rounding="stochastic")
    decoded = compressor.decode(compressor.encode(vector, generator=torch.Generator().manual_seed(0)), vector.numel())
    assert 4 <= decoded[1:].sum() <= 36  # five standard deviations above 16, and three below


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("kind", "largest"), KINDS)
def test_no_rounding_makes_the_largest_value_larger_than_its_code_can_say(kind, largest, sign):
    vector = torch.full((1 << 20,), sign * 0.5665945410728455)
    assert (vector / (vector.abs() / 127)).abs().max() > 127, "in float32 it is a little more than 127 of its scales"
    compressor = kind(vector.numel(), rounding="stochastic")
    decoded = compressor.decode(compressor.encode(vector, generator=torch.Generator().manual_seed(0)), vector.numel())
    torch.testing.assert_close(decoded.abs().max(), vector.abs().max(), rtol=1e-6, atol=0)
    assert (decoded * sign > 0).all()


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_changes_far_below_one_are_sent_like_all_others(kind):
    vector, tiny = random_vector(1000), 2.0**-100
    decoded = kind().decode(kind().encode(vector * tiny), 1000)
    assert torch.equal(decoded, kind().decode(kind().encode(vector), 1000) * tiny)
