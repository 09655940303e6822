"""What reports say of syncs that land late: bytes of both halves, and the wait for those who started later."""

import time

import pytest
import torch
from torch import nn

from localsgd import Every, Hierarchical, LocalSGD, Topology

LATE_SECONDS = 0.4


def count_bytes(is_nested, options):
    model = nn.Linear(30_000, 1)
    levels = {"schedule": Every(4)}
    if is_nested:
        levels = {"schedule": Hierarchical([Every(100), Every(4)]), "topology": Topology((2, 2))}
    local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), **levels, **options)
    for _ in range(5):
        local.step()
    return local.totals.wire_bytes, local.totals.bytes_by_level


@pytest.mark.parametrize("is_nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize(
    "options", [{"overlap_steps": 1}, {"fragments": 2}, {"fragments": 2, "overlap_steps": 1}], ids=str
)
def test_all_bytes_of_late_syncs_are_counted(options, is_nested, processes):
    for wire_bytes, by_level in processes(count_bytes, 4, is_nested, options):
        assert len(by_level) == 1 + is_nested
        assert min(by_level) > 30_000
        assert wire_bytes == pytest.approx(sum(by_level), rel=1e-2)


def wait_for_the_late(late):
    model = nn.Linear(3, 1)
    local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), Every(2), overlap_steps=1)
    local.step()
    torch.distributed.barrier()
    if torch.distributed.get_rank() == late:
        time.sleep(LATE_SECONDS)
    for _ in range(2):
        local.step()
    return local.last_sync.seconds_waited, local.last_sync.seconds


def test_who_lands_first_waits_for_those_who_started_later(processes):
    late, other = processes(wait_for_the_late, 2, 0)
    assert late[0] < LATE_SECONDS / 2 < other[0]
    assert all(0 <= waited <= seconds for waited, seconds in (late, other))
