"""Processes in nested blocks: what crosses between blocks is one model's worth for each block, not one for each process."""

from collections.abc import Callable, Sequence
from typing import Any, final

from torch import Tensor

from localsgd._checks import require
from localsgd.communicators.processes import Processes

__all__ = ["Nested"]

_BUCKET_ELEMENTS = 1 << 20


@final
class Nested:
    """The processes of nested blocks, as one group.

    A sum goes up and down: inside the innermost block every process sums a share of the vector (reduce-scatter), processes
    with the same share sum it across blocks, and the shares are collected again inside (all-gather). With m processes in a
    block, each of them sends only an m-th of the vector out of the block.

    Attributes:
        rank: Number of this process; neighbours in a block have neighbouring numbers.
        world_size: Number of processes, the product over the levels.
    """

    def __init__(self, levels: Sequence[Processes]) -> None:
        """Join groups.

        Args:
            levels: This process's group at each level, innermost first: the members of its block; then those that stand at
                its place in the other blocks of the next larger block; and so on.

        Raises:
            ArgumentError: If there is no level.
        """
        require(levels, "levels=[] must name at least one group of processes.")
        self._levels = tuple(levels)
        self.rank, self.world_size = 0, 1
        for level in levels:
            self.rank += level.rank * self.world_size
            self.world_size *= level.world_size

    @property
    def wire_bytes(self) -> int:
        """Bytes sent at all levels."""
        return sum(self.wire_bytes_by_level)

    @property
    def wire_bytes_by_level(self) -> tuple[int, ...]:
        """Bytes sent at each level, innermost first."""
        return tuple(level.wire_bytes for level in self._levels)

    @property
    def levels(self) -> tuple[Processes, ...]:
        """This process's group at each level, innermost first."""
        return self._levels

    @property
    def outermost(self) -> Processes:
        """The processes that hold the same share of a vector as this one, one in each outermost block."""
        return self._levels[-1]

    @property
    def num_shares(self) -> int:
        """In how many shares a vector is cut inside a block: as many as the block has processes."""
        return self.world_size // self.outermost.world_size

    def all_reduce_(self, vector: Tensor) -> None:
        """Replace a vector by its sum over the processes.

        Args:
            vector: Shape (n,), contiguous, floating; the same everywhere but for its values. Overwritten.

        Raises:
            SyncError: If an exchange fails or times out.

        Cost:
            At a level whose members hold shares of s values each and are m: 2 (m - 1) / m s values sent; s shrinks by m from
            one level to the next. Temporary memory of two buckets of 2^20 values for each member of the block, and of the
            shares. Every process must call this.
        """
        self.across_blocks_(vector, self.outermost.all_reduce_)

    def across_blocks_(self, vector: Tensor, exchange_: Callable[[Tensor], None]) -> None:
        """Replace a vector by its sum over the processes; what happens between the outermost blocks is the caller's choice.

        Args:
            vector: As for `all_reduce_`. Overwritten.
            exchange_: Replaces this process's share of the vector, shape (n // num_shares,), by its sum over ``outermost``.
                Values that do not fill a share (fewer than ``num_shares``) are summed by all-reduces.

        Raises:
            SyncError: If an exchange fails or times out.

        Cost:
            That of `all_reduce_` inside the blocks, and that of ``exchange_``. Every process must call this.
        """
        body = vector.numel() // self.num_shares * self.num_shares
        self._reduce_body_(vector[:body], 0, exchange_=exchange_)
        if body < vector.numel():
            for level in self._levels:
                level.all_reduce_(vector[body:])

    def broadcast_(self, tensor: Tensor, *, source: int = 0) -> None:
        """Replace a tensor by that of one process.

        Args:
            tensor: Contiguous; the same everywhere but for its values. Overwritten except on ``source``.
            source: Number of the process whose values everybody takes.

        Raises:
            SyncError: If an exchange fails or times out.

        Cost:
            One broadcast a level. Every process must call this.
        """
        for level in self._levels:
            level.broadcast_(tensor, source=source % level.world_size)
            source //= level.world_size

    def gather(self, item: Any) -> list[Any]:
        """Collect a small picklable object from every process.

        Args:
            item: This process's object.

        Returns:
            The objects of all processes, by number.

        Raises:
            SyncError: If an exchange fails or times out.

        Cost:
            Two all-gathers of small tensors a level. Every process must call this.
        """
        items = [item]
        for level in self._levels:
            items = [one for some in level.gather(items) for one in some]
        return items

    def _reduce_body_(self, body: Tensor, index: int, *, exchange_: Callable[[Tensor], None]) -> None:
        level = self._levels[index]
        if index + 1 == len(self._levels):
            exchange_(body)
        elif level.world_size == 1:
            self._reduce_body_(body, index + 1, exchange_=exchange_)
        else:
            share = level.reduce_scatter(body, bucket_elements=_BUCKET_ELEMENTS)
            self._reduce_body_(share, index + 1, exchange_=exchange_)
            level.all_gather_(body, share)
