"""Sums over nested blocks of processes whose way between the outermost blocks goes on while processes compute."""

from collections.abc import Callable, Sequence
from typing import Any, final

from torch import Tensor

from localsgd.communicators.nested import Nested
from localsgd.communicators.processes import Processes

__all__ = ["NestedTwin"]

_BUCKET_ELEMENTS = 1 << 20


@final
class NestedTwin:
    """The processes of nested blocks once more, in groups of their own.

    To start a sum is to form the shares inside the blocks, which waits for the other processes there; between the outermost
    blocks shares are summed while this process computes; to wait for it is to collect the shares inside again.

    Attributes:
        rank: Number of this process; neighbours in a block have neighbouring numbers.
        world_size: Number of processes, the product over the levels.
    """

    def __init__(self, levels: Sequence[Processes], *, counts: bool = True) -> None:
        """Join groups of the same processes.

        Args:
            levels: This process's group at each level, innermost first, as for `Nested`.
            counts: Whether what is sent here counts among the ``wire_bytes`` of ``levels``, too.

        Cost:
            One new group of torch.distributed a level. Every process must call this.
        """
        self._levels = [level.twin(counts=counts) for level in levels]
        self._nested = Nested(self._levels)
        self.rank, self.world_size = self._nested.rank, self._nested.world_size

    @property
    def wire_bytes(self) -> int:
        """Bytes sent at all levels in these groups."""
        return self._nested.wire_bytes

    @property
    def nested(self) -> Nested:
        """These groups as one: for sums that somebody else carries out while this process computes."""
        return self._nested

    def all_reduce_(self, vector: Tensor) -> None:
        """Replace a vector by its sum over the processes.

        Args:
            vector: As for `Nested.all_reduce_`. Overwritten.
        """
        self._nested.all_reduce_(vector)

    def broadcast_(self, tensor: Tensor, *, source: int = 0) -> None:
        """Replace a tensor by that of one process.

        Args:
            tensor: As for `Nested.broadcast_`. Overwritten except on ``source``.
            source: Number of the process whose values everybody takes.
        """
        self._nested.broadcast_(tensor, source=source)

    def gather(self, item: Any) -> list[Any]:
        """Collect a small picklable object from every process.

        Args:
            item: This process's object.

        Returns:
            The objects of all processes, by number.
        """
        return self._nested.gather(item)

    def twin(self) -> "NestedTwin":
        """Form the same groups once more.

        Returns:
            They. Every process must call this.
        """
        return NestedTwin(self._levels)

    def start_all_reduce_(self, vector: Tensor) -> Callable[[], None]:
        """Begin to replace a vector by its sum over the processes.

        Args:
            vector: Shape (n,), contiguous, floating; not to be touched before the result is usable.

        Returns:
            A function that returns when the result is usable, and raises SyncError if an exchange fails or times out. Every
            process must call it.

        Raises:
            SyncError: If an exchange inside the blocks fails or times out.

        Cost:
            That of `Nested.all_reduce_`: its first half inside the blocks at once, its second when waiting.
        """
        *inner, outermost = self._levels
        num_shares = self._nested.num_shares
        body = vector.numel() // num_shares * num_shares
        wholes: list[tuple[Processes, Tensor, Tensor]] = []
        part, rest = vector[:body], vector[body:]
        for level in (level for level in inner if level.world_size > 1):
            share = level.reduce_scatter(part, bucket_elements=_BUCKET_ELEMENTS)
            wholes.append((level, part, share))
            part = share
            if rest.numel():
                level.all_reduce_(rest)
        waits = [outermost.start_all_reduce_(piece) for piece in (part, rest) if piece.numel()]

        def wait() -> None:
            for each in waits:
                each()
            for level, whole, share in reversed(wholes):
                level.all_gather_(whole, share)

        return wait
