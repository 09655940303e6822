"""Guarantee 7 for payloads: the bytes that are reported are those that leave the sockets of this process."""

import sys

import pytest
import torch

from localsgd import Processes
from localsgd.compressed.sum import CompressedSum
from localsgd.compression import BFloat16, ErrorFeedback, Int4, Int8, Sign, TopK
from tests.distributed.test_wire_bytes import socket_bytes

LENGTH = 300_007


def measure(compressor):
    communicator = Processes()
    summed = CompressedSum(compressor, communicator, num_values=LENGTH)
    vector = torch.ones(LENGTH)
    torch.distributed.barrier()
    before, counted = socket_bytes(), communicator.wire_bytes
    for _ in range(4):
        summed.sum_(vector)
    torch.distributed.barrier()  # what a peer has received has left this process's sockets
    return socket_bytes() - before, communicator.wire_bytes - counted, 4 * summed.num_wire_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's TCP_INFO")
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    ("compressor", "bits"),
    [
        (BFloat16(), 16),
        (Int8(), 8 + 32 / 256),
        (Int4(), 4 + 32 / 64),
        (ErrorFeedback(Sign()), 1 + 32 / 256),
        (ErrorFeedback(TopK(0.01)), 0.64),
    ],
    ids=repr,
)
def test_only_payloads_leave_the_sockets(compressor, bits, world_size, processes):
    results = processes(measure, world_size, compressor)
    assert all(counted == announced for _, counted, announced in results)
    measured, counted, _ = (sum(column) for column in zip(*results, strict=True))
    num_messages = (4 * 2 + 4) * world_size * (world_size - 1)  # of sums, and of the barrier
    assert 0 <= measured - counted <= 256 * num_messages  # headers
    assert counted == pytest.approx(4 * 2 * (world_size - 1) * LENGTH * bits / 8, rel=1e-3)
