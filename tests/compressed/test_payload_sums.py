"""Compressed sums: who rounds how, who waits how long, and what all must have in common."""

import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from localsgd import Every, LocalSGD, Processes, replicate
from localsgd.communicators import OneProcess, communicators_by_level
from localsgd.compressed.emulated_sum import EmulatedSum
from localsgd.compressed.sum import CompressedSum, share_lengths
from localsgd.compression import ErrorFeedback, Float16, Int4, Int8, TopK
from localsgd.errors import DisagreementError

LENGTH, NUM_MEMBERS = 600, 3


def same_for_all():
    return torch.randn(LENGTH, generator=torch.Generator().manual_seed(0))


def compressor():
    return ErrorFeedback(Int4(LENGTH, rounding="stochastic"))


def residual_of_process():
    summed = CompressedSum(compressor(), Processes(), num_values=LENGTH)
    summed.sum_(same_for_all())
    return summed.state()["residual"]


def assert_unlike(residuals):
    """Two of three send a payload of each share; equal losses would add up instead of averaging out."""
    ends = torch.tensor([0, *share_lengths(slice(0, LENGTH), NUM_MEMBERS)]).cumsum(0).tolist()
    for owner in range(NUM_MEMBERS):
        first, second = (
            residual[ends[owner] : ends[owner + 1]] for rank, residual in enumerate(residuals) if rank != owner
        )
        assert first.count_nonzero() > 100
        assert second.count_nonzero() > 100
        assert (first != second).float().mean() > 0.1


def test_processes_that_mean_the_same_round_it_in_ways_of_their_own(processes):
    assert_unlike(processes(residual_of_process, NUM_MEMBERS))


def test_rows_that_mean_the_same_round_it_in_ways_of_their_own():
    summed = EmulatedSum(compressor(), OneProcess(), num_units=NUM_MEMBERS, num_values=LENGTH)
    summed.sum([same_for_all() for _ in range(NUM_MEMBERS)])
    assert_unlike([summed.state(unit)["residual"] for unit in range(NUM_MEMBERS)])


def construct_unlike(options):
    """Each process with options of its own."""
    try:
        CompressedSum(Int8(), Processes(), **({"num_values": 1000} | options[Processes().rank]))
    except DisagreementError as error:
        return str(error)
    return "agreed"


@pytest.mark.parametrize(
    "other", [{"num_values": 999}, {"dtype": torch.float64}, {"seed": 1}, {"bucket_values": 500}], ids=str
)
def test_processes_that_would_cut_round_or_read_differently_are_told_so(other, processes):
    for message in processes(construct_unlike, 2, [{}, other]):
        assert message.startswith("process 1 of 2 has compression Int8(")


def waits(sizes, late, seconds):
    communicator = Processes() if sizes is None else communicators_by_level(Processes(), sizes)[-1]
    summed = CompressedSum(Int8(), communicator, num_values=50_000)
    torch.distributed.barrier()
    start = time.perf_counter()
    if Processes().rank == late:
        time.sleep(seconds)
    summed.sum_(torch.ones(50_000))
    return summed.seconds_waited, time.perf_counter() - start


@pytest.mark.parametrize(("sizes", "num_processes"), [(None, 2), ((2, 2), 4)], ids=["flat", "nested"])
def test_what_is_spent_waiting_for_a_late_process_is_counted_once(sizes, num_processes, processes):
    seconds = 0.5
    late, *others = processes(waits, num_processes, sizes, 0, seconds)
    assert 0 < late[0] <= late[1] - seconds
    for waited, elapsed in others:
        assert seconds / 2 < waited <= elapsed


def sum_of_rows(changes, seed=0, num_sums=1):
    summed = EmulatedSum(
        Int4(LENGTH, rounding="stochastic"), OneProcess(), num_units=len(changes), num_values=LENGTH, seed=seed
    )
    return [summed.sum([change.clone() for change in changes]) for _ in range(num_sums)][-1]


def test_rows_round_every_sum_and_every_seed_in_a_way_of_its_own():
    changes = [same_for_all()] * 2
    first = sum_of_rows(changes)
    assert torch.equal(first, sum_of_rows(changes))
    assert not torch.equal(first, sum_of_rows(changes, seed=1))
    assert not torch.equal(first, sum_of_rows(changes, num_sums=2))


def test_what_a_row_sends_and_the_share_that_it_sums_are_rounded_in_ways_of_their_own():
    half = same_for_all()[: LENGTH // 2]
    # The other row has nothing to say: this one sums the first half alone, and sends the second, which nobody moves again.
    summed, sent = sum_of_rows([half.repeat(2), torch.zeros(LENGTH)]).chunk(2)
    assert (summed != sent).float().mean() > 0.1
    assert (summed - half).abs().max() < half.abs().max() / 7 * 1.001
    assert (sent - half).abs().max() < half.abs().max() / 7 * 1.001


@dataclass(frozen=True)
class SlowOnOne:
    """A compressor of somebody else's, which takes its time on process 0."""

    seconds: float
    keeps_residual: bool = False

    def num_bytes(self, num_values):
        return Float16().num_bytes(num_values)

    def encode(self, vector, *, generator=None):
        if torch.distributed.get_rank() == 0:
            time.sleep(self.seconds)
        return Float16().encode(vector, generator=generator)

    def decode(self, payload, num_values):
        return Float16().decode(payload, num_values)


def report_of_a_sync(seconds):
    model = nn.Linear(100, 1)
    local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), Every(9), compression=SlowOnOne(seconds))
    local.sync()
    return local.last_sync.seconds_waited, local.last_sync.seconds


def test_a_report_tells_how_long_payloads_of_others_were_waited_for(processes):
    slow, other = processes(report_of_a_sync, 2, 0.2)
    assert slow[0] < slow[1] - 0.4  # it encodes two shares
    assert 0.2 < other[0] <= other[1]


def test_a_compressed_sync_tells_how_far_workers_moved_but_not_whether_together():
    models = replicate(nn.Linear(9, 1, bias=False), 2)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    local = LocalSGD(models, optimizers, Every(9), compression=TopK(1.0), measure_drift=True)
    with torch.no_grad():
        for model in models:
            model.weight.add_(1.0)
    local.sync()
    assert local.last_sync.drift_norm == pytest.approx(3.0)
    assert local.last_sync.cosine is None
