"""Who averages with whom: the blocks of workers at each level."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, final

from localsgd._checks import require, require_at_least
from localsgd.errors import ArgumentError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Topology"]


@final
@dataclass(frozen=True)  # positional: Topology((2, 8)) reads like the paper's table headings
class Topology:
    """Blocks of neighbouring workers, level 1 the innermost, the last level everyone.

    Example:
        >>> Topology((2, 3)).blocks(1)
        ((0, 1), (2, 3), (4, 5))
        >>> Topology((2, 3)).blocks(2)
        ((0, 1, 2, 3, 4, 5),)
    """

    block_sizes: tuple[int, ...]
    """How many units of the level below make a block, innermost first; their product is K."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_sizes", tuple(self.block_sizes))
        require(self.block_sizes, "block_sizes=() must name at least one level; use Topology((num_workers,)).")
        for size in self.block_sizes:
            require_at_least("block_sizes", size, 1, fix="a block has at least one worker")

    @property
    def num_workers(self) -> int:
        """Number of workers (K)."""
        return math.prod(self.block_sizes)

    @property
    def num_levels(self) -> int:
        """Number of levels; 1 means that everyone averages with everyone."""
        return len(self.block_sizes)

    def require_level(self, level: int) -> None:
        """Check that there is such a level.

        Args:
            level: 1 for the innermost, ``num_levels`` for everyone.

        Raises:
            ArgumentError: If there is not.
        """
        num_levels = len(self.block_sizes)
        if not 1 <= level <= num_levels:  # asked at each sync: worded only if it is not so
            raise ArgumentError(f"level={level} must be in 1..{num_levels}.")

    def blocks(self, level: int) -> tuple[tuple[int, ...], ...]:
        """List the blocks of a level.

        Args:
            level: 1 for the innermost, ``num_levels`` for everyone.

        Returns:
            Worker numbers, block by block.

        Raises:
            ArgumentError: If there is no such level.
        """
        self.require_level(level)
        size = math.prod(self.block_sizes[:level])
        return tuple(tuple(range(first, first + size)) for first in range(0, self.num_workers, size))

    def bytes_by_level(self, payload_bytes: int, level: int) -> tuple[int, ...]:
        """Say what one worker sends at each level for a sync when every worker is a process of its own.

        Inside a block everyone sums a share of the vector, shares are summed across blocks, then collected again: so a block
        sends one model's worth to the outside, whatever its size.

        Args:
            payload_bytes: Size of the vector.
            level: Level of the sync.

        Returns:
            Bytes at each level; 0 above ``level``.

        Example:
            >>> Topology((2, 4)).bytes_by_level(1000, 2)
            (1000, 750)
        """
        return _bytes_by_level(payload_bytes, self.block_sizes, level)

    def process_block_sizes(self, num_rows: int) -> tuple[int, ...]:
        """Translate the blocks of workers into blocks of processes.

        Args:
            num_rows: Workers in each process (V).

        Returns:
            How many units of the level below make a block at each level, in processes; 1 where blocks lie inside processes.

        Raises:
            ArgumentError: If a block holds parts of processes: neither does it divide V, nor V it.
        """
        sizes, below = [], 1
        for level in range(1, self.num_levels + 1):
            workers = math.prod(self.block_sizes[:level])
            fits = num_rows % workers == 0 or workers % num_rows == 0
            require(
                fits,
                f"block_sizes={self.block_sizes}: a block of level {level} has {workers} workers, which neither "
                f"divides the {num_rows} rows of a process nor is a multiple of them; make one a multiple of the other.",
            )
            processes = max(1, workers // num_rows)
            sizes.append(processes // below)
            below = processes
        return tuple(sizes)

    def row_blocks(self, level: int, num_rows: int) -> tuple[range, ...]:
        """List the parts of a level's blocks that lie in one process.

        Args:
            level: 1 for the innermost, ``num_levels`` for everyone.
            num_rows: Workers in each process (V).

        Returns:
            Numbers of rows, block by block; a single range of all rows where the block is larger than the process.
        """
        size = min(math.prod(self.block_sizes[:level]), num_rows)
        return tuple(range(first, first + size) for first in range(0, num_rows, size))

    @staticmethod
    def from_nodes(*, workers_per_node: int, num_nodes: int) -> "Topology":
        """Make the two levels of a cluster: inside a node, and between nodes.

        Args:
            workers_per_node: Rows a process times processes a node (torchrun's ``LOCAL_WORLD_SIZE``).
            num_nodes: Number of nodes.

        Returns:
            The topology.

        Raises:
            ArgumentError: If a number is below 1.
        """
        require_at_least("workers_per_node", workers_per_node, 1)
        require_at_least("num_nodes", num_nodes, 1)
        return Topology((workers_per_node, num_nodes))

    @staticmethod
    def from_device_mesh(mesh: "DeviceMesh", *, num_rows: int = 1) -> "Topology":
        """Read the levels off a device mesh, whose last dimension is the innermost.

        Args:
            mesh: A mesh over all processes, numbered in order.
            num_rows: Workers in each process (V); with several they are a level of their own, inside the process.

        Returns:
            The topology.

        Raises:
            ArgumentError: If the mesh does not hold the ranks 0, 1, 2, ... in order: its blocks would not be neighbours.
        """
        ranks = mesh.mesh.flatten().tolist()
        require(
            ranks == list(range(len(ranks))),
            f"mesh holds the ranks {ranks}; blocks are made of neighbours, so it must hold 0, 1, 2, ... in order.",
        )
        sizes = tuple(reversed(mesh.mesh.shape))
        return Topology(sizes if num_rows == 1 else (num_rows, *sizes))


@lru_cache(maxsize=256)
def _bytes_by_level(payload_bytes: int, block_sizes: tuple[int, ...], level: int) -> tuple[int, ...]:
    sent, share = [], float(payload_bytes)
    for index, size in enumerate(block_sizes, start=1):
        sent.append(round(2 * (size - 1) / size * share) if index <= level else 0)
        share /= size
    return tuple(sent)
