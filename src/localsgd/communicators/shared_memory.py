"""Processes of one host that sum vectors in memory they share, instead of sending them through sockets."""

import itertools
import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from localsgd._checks import require_at_least, require_positive
from localsgd.communicators.neighbours import Neighbours
from localsgd.communicators.processes import Processes
from localsgd.communicators.started_sums import StartedSums
from localsgd.errors import ArgumentError, StateError

__all__ = ["SharedMemory"]

_BUCKET_BYTES = 1 << 22
_TIMEOUT_SECONDS = 1800.0


@final
class SharedMemory:
    """The processes of a group on one host; vectors on the CPU are summed in memory that all of them see.

    Each process owns a piece of memory without a name, which vanishes with the last process that has it open, however that
    ends. A bucket of the vector is copied there; every process sums its share of everybody's bucket, in the order of their
    numbers, so that all get the same bits; then everybody collects the shares. Of two processes each just adds what the
    other has. Nobody spins while waiting.

    Everything else, and vectors on accelerators, goes through the group as it is.

    Attributes:
        rank: Number of this process in the group.
        world_size: Number of processes in the group.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        bucket_bytes: int = _BUCKET_BYTES,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        """Share memory.

        Args:
            processes: The group.
            bucket_bytes: How much of a vector is summed at a time, >= 16.
            timeout_seconds: How long an all-reduce waits for a process that does not come, > 0.

        Raises:
            ArgumentError: If a number is out of range, or the processes cannot share memory (they are on several hosts, this
                is not Linux, there is too little memory); on every process.

        Cost:
            Two buckets of memory for each process. Every process must call this.
        """
        require_at_least("bucket_bytes", bucket_bytes, 16)
        require_positive("timeout_seconds", timeout_seconds)
        self._processes = processes
        self.rank, self.world_size = processes.rank, processes.world_size
        self._bucket_bytes, self._timeout_seconds = bucket_bytes // 16 * 16, timeout_seconds
        self._neighbours = Neighbours(
            processes, lambda: _new_memory(2 * self._bucket_bytes), timeout_seconds=timeout_seconds
        )
        # Two buckets a process: while some still read the last one, others write the next.
        self._halves: tuple[list[Tensor], ...] = self._map()
        self._turn = 0
        self._started = StartedSums(self._neighbours, reserved_bytes=2 * self._bucket_bytes)
        self._twins: list[SharedMemory] = []

    @property
    def wire_bytes(self) -> int:
        """Bytes of vectors that were sent so far; what is summed in shared memory crosses no wire, and is not counted."""
        return self._processes.wire_bytes

    def all_reduce_(self, vector: Tensor) -> None:
        """Replace a vector by its sum over the processes.

        Args:
            vector: Shape (n,), contiguous, floating; the same everywhere but for its values. Overwritten.

        Raises:
            StateError: If this communicator was closed.
            SyncError: If a process has ended, or does not come in time.

        Cost:
            A vector on the CPU is copied twice and sends nothing; others cost what they cost in the group. Every process
            must call this.
        """
        if vector.device.type != "cpu":
            self._processes.all_reduce_(vector)
        elif self.world_size > 1 and vector.numel():
            for bucket in torch.split(vector, self._bucket_bytes // vector.element_size()):
                self._sum_(bucket)

    def start_all_reduce_(self, vector: Tensor) -> Callable[[], None]:
        """Begin to replace a vector by its sum over the processes.

        Args:
            vector: As for `all_reduce_`; not to be touched before the result is usable.

        Returns:
            A function that returns when the result is usable, and raises SyncError if a process has ended or does not come
            in time. The bits are those of `all_reduce_`.

        Raises:
            StateError: If this communicator was closed.
            SyncError: If a process has ended, or there is no memory to share.

        Cost:
            A vector on the CPU is copied here, and added up by whoever waits for it: with many processes more work than
            `all_reduce_`, where each adds up a share. Memory of one vector for each that is under way, and of one more.
            Others cost what they cost in the group. Every process must call this.
        """
        if vector.device.type != "cpu":
            return self._processes.start_all_reduce_(vector)
        if self.world_size == 1 or not vector.numel():
            return _nothing_to_wait_for
        return self._started.start(vector)

    def broadcast_(self, tensor: Tensor, *, source: int = 0) -> None:
        """Replace a tensor by that of one process.

        Args:
            tensor: Contiguous; the same everywhere but for its values. Overwritten except on ``source``.
            source: Rank in the group of the process whose values everybody takes.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            One broadcast in the group. Every process must call this.
        """
        self._processes.broadcast_(tensor, source=source)

    def gather(self, item: Any) -> list[Any]:
        """Collect a small picklable object from every process.

        Args:
            item: This process's object.

        Returns:
            The objects of all processes, by rank.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            Two all-gathers of small tensors in the group. Every process must call this.
        """
        return self._processes.gather(item)

    def all_to_all(self, outgoing: Tensor) -> Tensor:
        """Give every process its own message.

        Args:
            outgoing: Shape (world_size, n), contiguous, any dtype; row i is for process i.

        Returns:
            Shape (world_size, n); row i is what process i had for this one.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            That of the group. Every process must call this.
        """
        return self._processes.all_to_all(outgoing)

    def all_gather_(self, vector: Tensor, share: Tensor) -> None:
        """Fill a vector with the shares of all processes.

        Args:
            vector: Shape (n,), contiguous. Overwritten.
            share: This process's share, shape (n / world_size,).

        Raises:
            SyncError: If it fails or times out.

        Cost:
            That of the group. Every process must call this.
        """
        self._processes.all_gather_(vector, share)

    def split(self, blocks: Sequence[Sequence[int]]) -> Processes:
        """Form groups of processes; they exchange through sockets.

        Args:
            blocks: Numbers of the members of each group, each process in exactly one.

        Returns:
            The group that this process belongs to.

        Cost:
            One new group of torch.distributed for each of ``blocks``. Every process must call this, with the same blocks.
        """
        return self._processes.split(blocks)

    def twin(self) -> "SharedMemory":
        """Form a second group of the same processes, whose exchanges keep an order of their own.

        Returns:
            The group, with memory of its own. What it sends counts among the ``wire_bytes`` of this one.

        Raises:
            ArgumentError: If there is too little memory; on every process.

        Cost:
            One new group of torch.distributed, and two buckets of memory for each process. Every process must call this.
        """
        twin = SharedMemory(
            self._processes.twin(), bucket_bytes=self._bucket_bytes, timeout_seconds=self._timeout_seconds
        )
        self._twins.append(twin)
        return twin

    def share_within(self, group: Processes) -> "SharedMemory | Processes":
        """Share memory within a group of these processes.

        Args:
            group: The group.

        Returns:
            The processes of the group, with memory of their own; the group as it is where there is too little memory.

        Cost:
            Two buckets of memory for each process. Every process of the group must call this.
        """
        try:
            return SharedMemory(group, bucket_bytes=self._bucket_bytes, timeout_seconds=self._timeout_seconds)
        except ArgumentError:  # on every process of the group alike
            return group

    def close(self) -> None:
        """Leave: an all-reduce that others are in, or enter, fails; so it does in twins. The group stays."""
        self._neighbours.close()
        self._halves = ([], [])
        self._started.close()
        for twin in self._twins:
            twin.close()

    def _sum_(self, bucket: Tensor) -> None:
        halves, size = self._halves[self._turn], bucket.numel()
        if not halves:
            raise StateError("this SharedMemory was closed; make another one on every process.")
        self._turn = 1 - self._turn
        theirs = [half.view(bucket.dtype)[:size] for half in halves]
        theirs[self.rank].copy_(bucket)
        self._neighbours.meet()
        if self.world_size == 2:  # both get the same bits in either order, and need not wait again
            bucket.add_(theirs[1 - self.rank])
            return
        ends = [size * rank // self.world_size for rank in range(self.world_size + 1)]
        shares = [slice(begin, end) for begin, end in itertools.pairwise(ends)]
        own = shares[self.rank]
        total = bucket[own]
        torch.add(theirs[0][own], theirs[1][own], out=total)
        for other in theirs[2:]:
            total.add_(other[own])
        theirs[self.rank][own].copy_(total)
        self._neighbours.meet()
        for rank, share in enumerate(shares):
            if rank != self.rank:
                bucket[share].copy_(theirs[rank][share])

    def _map(self) -> tuple[list[Tensor], list[Tensor]]:
        """Look at everybody's memory: the first halves, and the second ones."""
        size = self._bucket_bytes
        memories = [
            torch.frombuffer(mmap.mmap(descriptor, 2 * size), dtype=torch.uint8)
            for descriptor in self._neighbours.descriptors
        ]
        return [memory[:size] for memory in memories], [memory[size:] for memory in memories]


def _nothing_to_wait_for() -> None:
    """The sum is there."""


def _new_memory(num_bytes: int) -> int:
    """Reserve memory that is shared by its descriptor; it lies in no file system, so /dev/shm may be small or absent."""
    descriptor = os.memfd_create("localsgd")
    try:
        # What is promised only is paid for at the first touch, with a SIGBUS where there is none.
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
