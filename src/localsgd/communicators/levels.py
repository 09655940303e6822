"""One communicator for each level of a topology."""

import math
from collections.abc import Sequence

from localsgd.communicators.nested import Nested
from localsgd.communicators.one_process import OneProcess
from localsgd.communicators.processes import Processes
from localsgd.communicators.protocol import Communicator, SplittableCommunicator
from localsgd.communicators.shared_memory import SharedMemory
from localsgd.errors import ArgumentError

__all__ = ["communicators_by_level"]


def communicators_by_level(communicator: Communicator, block_sizes: Sequence[int]) -> list[Communicator]:
    """Make the communicators in which processes average at each level.

    Args:
        communicator: All processes.
        block_sizes: How many units of the level below make a block, in processes, innermost first; 1 where a level's
            blocks lie inside the processes. Their product is the number of processes.

    Returns:
        For each level the members of this process's block: alone, a flat group, or nested groups.

    Raises:
        ArgumentError: If there are several groups to form and the communicator cannot be split.

    Cost:
        One group of torch.distributed for each block at each level. Every process must call this.
    """
    world_size = communicator.world_size
    if sum(size > 1 for size in block_sizes) <= 1:
        return [
            communicator if math.prod(block_sizes[: i + 1]) == world_size else OneProcess()
            for i in range(len(block_sizes))
        ]
    if not isinstance(communicator, SplittableCommunicator):
        raise ArgumentError(
            f"communicator={communicator!r} cannot be split into the blocks of a topology; use Processes(), or one level."
        )
    found: list[Communicator] = []
    groups: list[Processes] = []
    below = 1
    for size in block_sizes:
        if size > 1:
            group = communicator.split(_same_place_blocks(world_size, size, below))
            if not isinstance(group, Processes):
                raise ArgumentError(f"communicator={communicator!r} does not split into Processes; use Processes().")
            groups.append(group)
        below *= size
        found.append(OneProcess() if not groups else groups[0] if len(groups) == 1 else Nested(tuple(groups)))
    if isinstance(communicator, SharedMemory):  # so do the innermost blocks; larger ones need what groups can do
        return [communicator.share_within(one) if isinstance(one, Processes) else one for one in found]
    return found


def _same_place_blocks(world_size: int, size: int, below: int) -> list[list[int]]:
    """List the groups of processes that stand at the same place in ``size`` neighbouring blocks of ``below`` processes."""
    larger = size * below
    return [
        [first + place + below * block for block in range(size)]
        for first in range(0, world_size, larger)
        for place in range(below)
    ]
