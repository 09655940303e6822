"""Error feedback: workers that pull in different directions come to rest near the right place; without it they do not."""

import pytest
import torch

from localsgd import Processes
from localsgd.compressed.sum import CompressedSum
from localsgd.compression import ErrorFeedback, Sign, TopK

NUM_VALUES = 256
LARGE, SMALL = 0.1, 0.025


def distance_to_minimum(compressor, rate):
    """Minimise the mean of ``|w - target|^2 / 2`` over the processes; give the relative distance from the mean target.

    At the minimum the workers' changes cancel, but none is zero. Targets are cubes of normal numbers, so that a few values
    matter much more than the others: what signs and the largest values alone tell least about.
    """
    communicator = Processes()
    num_workers = communicator.world_size
    targets = torch.randn(num_workers, NUM_VALUES, generator=torch.Generator().manual_seed(0)) ** 3
    summed = CompressedSum(compressor, communicator, num_values=NUM_VALUES)
    w = torch.zeros(NUM_VALUES)
    for _ in range(round(10 / rate)):  # the start is forgotten by a factor of exp(-10)
        change = rate / num_workers * (targets[communicator.rank] - w)
        summed.sum_(change)
        w += change
    minimum = targets.mean(0)
    return float(torch.linalg.vector_norm(w - minimum) / torch.linalg.vector_norm(minimum))


def distances(compressors):
    return [[distance_to_minimum(compressor, rate) for rate in (LARGE, SMALL)] for compressor in compressors]


@pytest.mark.parametrize("inner", [Sign(), TopK(0.02)], ids=repr)
def test_what_stays_with_error_feedback_is_proportional_to_the_rate_and_what_stays_without_is_not(inner, processes):
    (plain_large, plain_small), (large, small) = processes(distances, 2, [inner, ErrorFeedback(inner)])[0]
    # Without, the place of rest is another one, whatever the rate: measured 0.68 for signs and 0.34 for two values of a
    # hundred, equal to 2% over a factor of 8 in the rate.
    assert plain_small > 0.3
    assert plain_small / plain_large == pytest.approx(1, abs=0.05)
    # With it, what is still owed is bounded by a multiple of the rate, and so is the distance: a quarter of the rate should
    # leave a quarter. Measured over 2 and 3 processes, three seeds and both compressors: a 3.9th to a 5.4th. Where the
    # residuals stand when the run ends is a matter of chance, so the band is a 3rd to a 6.5th.
    assert 3 < large / small < 6.5
    assert small < plain_small / 3
