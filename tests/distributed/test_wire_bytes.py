"""Guarantee 7: the bytes that are reported are those that leave the sockets of this process."""

import os
import socket
import struct
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from localsgd import Every, LocalSGD

NOT_SENT_OFFSET = 144  # of tcpi_notsent_bytes, in Linux's struct tcp_info
BYTES_SENT_OFFSET = 200  # of tcpi_bytes_sent, and behind it tcpi_bytes_retrans, since 4.19


def socket_bytes() -> int:
    """Payload bytes that all TCP sockets of this process have sent, those sent twice counted once.

    Those that the kernel holds back for a moment, because the receiver has not read enough, count as sent.
    """
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as own:
                if own.family in (socket.AF_INET, socket.AF_INET6) and own.type == socket.SOCK_STREAM:
                    info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    if len(info) >= BYTES_SENT_OFFSET + 16:
                        sent, sent_again = struct.unpack_from("<QQ", info, BYTES_SENT_OFFSET)
                        (not_sent,) = struct.unpack_from("<I", info, NOT_SENT_OFFSET)
                        total += sent - sent_again + not_sent
        except OSError:
            continue
    return total


def measure(schedule, num_elements):
    model = nn.Linear(num_elements, 1, bias=False)
    local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule)
    model(torch.ones(1, num_elements)).sum().backward()
    torch.distributed.barrier()
    before = socket_bytes()
    for _ in range(4):
        local.step()
    return socket_bytes() - before, local.totals.wire_bytes, local.totals.bytes_sent


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's TCP_INFO")
@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("schedule", [Every(1), Every(2)], ids=str)
def test_reported_bytes_are_those_of_the_sockets(schedule, world_size, processes):
    results = processes(measure, world_size, schedule, 300_007)
    syncs = 4 // schedule.period
    assert all(reported > syncs * 300_007 * 4 for _, reported, _ in results)
    # Ring segments are of whole elements and every message has a header: the sum over processes is exact to a thousandth.
    measured, reported, per_worker = (sum(column) for column in zip(*results, strict=True))
    assert measured == pytest.approx(reported, rel=1e-3)
    assert reported == per_worker
