"""Sums in shared memory that one process starts while others still compute: nobody waits before he needs the result."""

import mmap
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from localsgd.communicators.neighbours import Neighbours, Note
from localsgd.errors import StateError, SyncError

__all__ = ["StartedSums"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Place:
    """A piece of this process's memory."""

    offset: int
    """Where it begins; known to the others, too."""

    memory: Tensor
    """Its bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sum:
    """A vector whose sum is under way."""

    vector: Tensor
    """What becomes the sum."""

    own: Tensor
    """Its values, as the others see them."""


@final
class StartedSums:
    """Vectors that wait in shared memory until all processes have laid out theirs.

    Who starts a sum copies his vector to a place in his memory, tells the others, and goes on. Who needs the sum waits until
    all have told, and adds up what lies there, in the order of their numbers, so that all get the same bits. He needs nobody
    to help him: what is left to wait for is only those who have not started. A place is used again when all have read it;
    where there is none, memory grows.

    There is no thread that works meanwhile. Where each core has its process that computes, it would only take turns with it.
    """

    def __init__(self, neighbours: Neighbours, *, reserved_bytes: int) -> None:
        """Start nothing yet.

        Args:
            neighbours: The processes; what they share is their memory.
            reserved_bytes: How much of each memory, from its beginning, serves something else.
        """
        self._neighbours = neighbours
        self._end = _whole_pages(reserved_bytes)
        self._pending: deque[_Sum] = deque()
        self._laid_out: deque[_Place] = deque()
        self._free: list[_Place] = []
        self._num_read_by_us = self._num_read_by_all = 0
        self._views: dict[tuple[int, int], Tensor] = {}
        self._failure: SyncError | None = None

    def start(self, vector: Tensor) -> Callable[[], None]:
        """Lay out a vector.

        Args:
            vector: Shape (n,), contiguous, on the CPU; n >= 1.

        Returns:
            A function that makes it the sum, and raises SyncError if a process has ended or does not come in time.

        Raises:
            StateError: If the connections were closed.
            SyncError: If a process has ended, or there is no memory to share.

        Cost:
            Copies the vector; as much memory for each one under way, and for one more.
        """
        self._require_open()
        data = vector.detach()
        num_bytes = data.numel() * data.element_size()
        place = self._find_place(num_bytes)
        own = place.memory[:num_bytes].view(data.dtype)
        own.copy_(data)
        self._neighbours.tell(Note.POSTED, place.offset)
        self._laid_out.append(place)
        begun = _Sum(vector=data, own=own)
        self._pending.append(begun)

        def wait() -> None:
            while begun in self._pending:
                self._finish_next()

        return wait

    def close(self) -> None:
        """Let go of all memory; sums that are under way fail."""
        self._free.clear()
        self._laid_out.clear()
        self._views.clear()

    def _finish_next(self) -> None:
        """Form the sum that was started first."""
        self._require_open()
        if self._failure is not None:
            raise SyncError(str(self._failure)) from self._failure
        try:
            offsets = self._neighbours.hear(Note.POSTED)
        except SyncError as error:
            self._failure = error
            raise
        begun = self._pending[0]
        offered = [
            begun.own if rank not in offsets else self._view(rank, offsets[rank], begun.own)
            for rank in range(self._neighbours.world_size)
        ]
        torch.add(offered[0], offered[1], out=begun.vector)
        for values in offered[2:]:
            begun.vector.add_(values)
        self._neighbours.tell(Note.DONE)
        self._num_read_by_us += 1
        self._pending.popleft()

    def _find_place(self, num_bytes: int) -> _Place:
        self._num_read_by_all += self._neighbours.take(Note.DONE)
        num_idle = min(self._num_read_by_us, self._num_read_by_all)
        self._num_read_by_us -= num_idle
        self._num_read_by_all -= num_idle
        self._free += [self._laid_out.popleft() for _ in range(num_idle)]
        large = [place for place in self._free if place.memory.numel() >= num_bytes]
        if not large:
            return self._new_place(_whole_pages(num_bytes))
        found = min(large, key=lambda place: place.memory.numel())
        self._free = [place for place in self._free if place is not found]
        return found

    def _new_place(self, num_bytes: int) -> _Place:
        rank = self._neighbours.rank
        try:
            # What is promised only is paid for at the first touch, with a SIGBUS where there is none.
            os.posix_fallocate(self._neighbours.descriptors[rank], self._end, num_bytes)
            memory = self._map(rank, self._end, num_bytes)
        except OSError as error:
            raise SyncError(
                f"process {rank} of {self._neighbours.world_size} cannot share {num_bytes} more bytes ({error}); free some "
                "memory, and start again from the last checkpoint."
            ) from error
        place = _Place(offset=self._end, memory=memory)
        self._end += num_bytes
        return place

    def _view(self, rank: int, offset: int, like: Tensor) -> Tensor:
        """Look at what a process has laid out."""
        num_bytes = like.numel() * like.element_size()
        view = self._views.get((rank, offset))
        if view is None or view.numel() < num_bytes:
            view = self._views[rank, offset] = self._map(rank, offset, _whole_pages(num_bytes))
        return view[:num_bytes].view(like.dtype)

    def _map(self, rank: int, offset: int, num_bytes: int) -> Tensor:
        descriptor = self._neighbours.descriptors[rank]
        return torch.frombuffer(mmap.mmap(descriptor, num_bytes, offset=offset), dtype=torch.uint8)

    def _require_open(self) -> None:
        if not self._neighbours.descriptors:
            raise StateError("this SharedMemory was closed; make another one on every process.")


def _whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
