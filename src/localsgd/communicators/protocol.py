"""What a communicator does: exchange vectors and small facts between processes."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Communicator", "OverlappingCommunicator", "PayloadCommunicator", "SplittableCommunicator"]


@runtime_checkable
class Communicator(Protocol):
    """Exchanges vectors between the processes of one group.

    Every process of the group must call the same methods in the same order. Rows inside a process are none of its
    business: `localsgd.averaging.averager.Averager` sums them before anything crosses the wire.

    Attributes:
        rank: Number of this process in the group, 0 <= rank < world_size.
        world_size: Number of processes in the group.
    """

    rank: int
    world_size: int

    @property
    def wire_bytes(self) -> int:
        """Bytes of vectors this process has sent since construction."""
        ...

    def all_reduce_(self, vector: Tensor) -> None:
        """Replace a vector by its sum over the processes; returns when the result is usable.

        Args:
            vector: Shape (n,), contiguous, floating; same shape, dtype and kind of device everywhere. Overwritten.

        Raises:
            SyncError: If it fails or times out.
        """
        ...

    def broadcast_(self, tensor: Tensor, *, source: int = 0) -> None:
        """Replace a tensor by that of one process.

        Args:
            tensor: Contiguous, any dtype; same shape and dtype everywhere. Overwritten except on ``source``.
            source: Rank in the group of the process whose values everybody takes.
        """
        ...

    def gather(self, item: Any) -> list[Any]:
        """Collect a small picklable object from every process.

        Args:
            item: This process's object.

        Returns:
            The objects of all processes, by rank.
        """
        ...


@runtime_checkable
class SplittableCommunicator(Communicator, Protocol):
    """A communicator whose processes can form smaller groups: what a topology of several levels needs."""

    def split(self, blocks: Sequence[Sequence[int]]) -> "SplittableCommunicator":
        """Form groups of processes; every process must call this with the same blocks.

        Args:
            blocks: Numbers of the members of each group, each process in exactly one.

        Returns:
            The group that this process belongs to, in which members are numbered in the order of their block.
        """
        ...


@runtime_checkable
class OverlappingCommunicator(Communicator, Protocol):
    """A communicator that can sum while this process computes: what gradients sent during backward need."""

    def twin(self) -> "OverlappingCommunicator":
        """Form a second group of the same processes, whose exchanges keep an order of their own.

        So what one process starts earlier than another is never taken for an exchange of the first group.

        Returns:
            The group. What it has sent counts among the ``wire_bytes`` of this one. Every process must call this.
        """
        ...

    def start_all_reduce_(self, vector: Tensor) -> Callable[[], None]:
        """Begin to replace a vector by its sum over the processes.

        Args:
            vector: As for `all_reduce_`; not to be touched before the result is usable.

        Returns:
            A function that returns when the result is usable, and raises SyncError if the exchange fails or times out.
        """
        ...


@runtime_checkable
class PayloadCommunicator(Communicator, Protocol):
    """A communicator that can carry bytes as they are: what compressed sums need."""

    def all_to_all(self, outgoing: Tensor) -> Tensor:
        """Give every process its own message.

        Args:
            outgoing: Shape (world_size, n), contiguous, any dtype; row i is for process i. Same shape and dtype everywhere.

        Returns:
            Shape (world_size, n); row i is what process i had for this one.

        Raises:
            SyncError: If it fails or times out.
        """
        ...

    def all_gather_(self, vector: Tensor, share: Tensor) -> None:
        """Fill a vector with the shares of all processes.

        Args:
            vector: Shape (world_size * n,), contiguous, any dtype. Overwritten.
            share: This process's share, shape (n,).

        Raises:
            SyncError: If it fails or times out.
        """
        ...
