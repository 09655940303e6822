"""A process that does not come to an exchange: the others are told so in good time, whichever exchange it was."""

from datetime import timedelta

import torch
import torch.distributed as dist

from localsgd import Processes
from localsgd.errors import SyncError

PATIENCE = timedelta(seconds=0.3)
EXCHANGES = {
    "an all-reduce between": lambda own: own.all_reduce_(torch.ones(4)),
    "an all-reduce between 2": lambda own: own.start_all_reduce_(torch.ones(4))(),
    "a broadcast to": lambda own: own.broadcast_(torch.ones(4), source=1),
    "an exchange between": lambda own: own.gather("something small"),
    "a reduce-scatter between": lambda own: own.reduce_scatter(torch.ones(4), bucket_elements=2),
    "an all-to-all between": lambda own: own.all_to_all(torch.ones(2, 4)),
    "an all-gather between": lambda own: own.all_gather_(torch.empty(4), torch.ones(2)),
}


def wait_in_vain():
    """Process 0 enters each exchange alone; gives what it is told."""
    found = []
    for exchange in EXCHANGES.values():
        own = Processes(dist.new_group([0, 1], timeout=PATIENCE))
        try:
            if own.rank == 0:
                exchange(own)
            found.append("nothing")
        except SyncError as error:
            found.append(str(error))
        dist.barrier()
    return found


def test_whichever_exchange_it_is_the_one_who_waits_is_told(processes):
    waiting, absent = processes(wait_in_vain, 2)
    assert absent == ["nothing"] * len(EXCHANGES)
    for what, told in zip(EXCHANGES, waiting, strict=True):
        assert told.startswith(what)
        assert "2 processes failed (" in told
        assert "start again from the last checkpoint" in told
