"""Sums that are started in shared memory, and that their own process reads last."""

import torch
import torch.distributed as dist

from localsgd import Processes
from localsgd.communicators import SharedMemory


def read_late():
    """Process 0 starts a second sum when all others have read the first, which it has not."""
    own = SharedMemory(Processes())
    first, second = torch.full((1000,), own.rank + 1.0), torch.full((1000,), 10.0 * (own.rank + 1))
    wait = own.start_all_reduce_(first)
    if own.rank:
        wait()
    dist.barrier()
    later = own.start_all_reduce_(second)
    if own.rank == 0:
        wait()
    later()
    own.close()
    return first.unique().tolist(), second.unique().tolist()


def test_a_place_in_memory_is_not_used_again_before_its_own_process_has_read_it(processes):
    assert processes(read_late, 3) == [([6.0], [60.0])] * 3
