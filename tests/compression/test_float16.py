import pytest
import torch

from localsgd.compression import Float16


def there_and_back(vector):
    return Float16().decode(Float16().encode(vector), vector.numel())


def test_eleven_bits_are_kept_of_every_value_that_is_not_tiny_beside_the_largest():
    values = torch.logspace(-8, 0, 1000, dtype=torch.float64).float()  # 2^-28 of the largest is 3.7e-9
    for size in (1e-30, 1e-9, 1.0, 1e30):
        error = (there_and_back(values * size) / (values * size) - 1).abs()
        assert 2**-13 < error.max() <= 2**-11


def test_changes_below_what_float16_can_hold_survive():
    change = torch.tensor([1e-9, -2e-10])
    assert change.half().count_nonzero() == 0
    torch.testing.assert_close(there_and_back(change), change, rtol=2**-11, atol=0)


def test_the_scale_is_a_power_of_two_so_that_short_numbers_arrive_exactly():
    change = torch.tensor([3.0, -0.625, 1024.0, 0.0])
    assert torch.equal(there_and_back(change), change)


@pytest.mark.parametrize("largest", [-1e6, 1e6])
def test_the_scale_is_that_of_the_largest_value_whatever_its_sign(largest):
    change = torch.tensor([1.0, largest, 0.5])
    torch.testing.assert_close(there_and_back(change), change, rtol=2**-11, atol=0)


@pytest.mark.parametrize("largest", [1.0, -1.9990234375])
def test_the_last_of_eleven_bits_is_kept_down_to_2_to_the_minus_28_of_the_largest(largest):
    change = torch.tensor([largest, (1 + 2**-10) * 2.0**-28])
    assert torch.equal(there_and_back(change), change)
