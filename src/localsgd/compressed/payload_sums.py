"""The sums of payloads in which everyone's changes travel: one for each fragment in each group, and what is owed in them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from localsgd._checks import require
from localsgd.averaging.averager import Averager
from localsgd.buffers.arithmetic import CHUNK_ELEMENTS
from localsgd.buffers.flat import RowGroup
from localsgd.buffers.fragments import Fragment
from localsgd.buffers.layout import Layout
from localsgd.communicators import Communicator
from localsgd.compressed.emulated_sum import EmulatedSum
from localsgd.compressed.sum import CompressedSum, cut_buckets, payload_bytes, require_same_sizes
from localsgd.compression import Compressor
from localsgd.topology import Topology

__all__ = ["PayloadSums", "find_gaps", "sum_changes_"]


@final
class PayloadSums:
    """Sums changes over the units that tell each other payloads: workers, or blocks of workers inside which sums are exact.

    Syncs that wait and syncs that overlap share these sums, so that each value that is owed is kept once.

    Attributes:
        num_fragments: How many fragments have sums of their own.
        units: Rows of this process that tell the others one thing together, unit by unit.
    """

    def __init__(
        self,
        compressor: Compressor,
        everyone: Averager,
        topology: Topology,
        *,
        first_worker: int,
        fragments: Sequence[Fragment],
    ) -> None:
        """Compare the processes, and begin with nothing owed.

        Args:
            compressor: What makes the payloads.
            everyone: The block of all workers.
            topology: Who averages with whom; its last level has several blocks.
            first_worker: Number of the worker in row 0 of this process.
            fragments: How rows are cut.

        Raises:
            ArgumentError: If the communicator cannot carry payloads.
            DisagreementError: If processes differ.

        Cost:
            An exchange of a digest for each fragment in each group. Every process must call this.
        """
        self._compressor, self._topology, self._first_worker = compressor, topology, first_worker
        self._groups, num_rows = everyone.rows.groups, everyone.rows.num_rows
        self.num_fragments = len(fragments)
        self._size_inside = topology.num_workers // topology.block_sizes[-1]
        size = min(self._size_inside, num_rows)
        self.units = [range(first, first + size) for first in range(0, num_rows, size)]
        self._sums = [
            [
                self._make_sum(
                    everyone.communicator,
                    group.layout,
                    num_values=region.stop - region.start,
                    seed=fragment.index * len(self._groups) + index,
                )
                for index, (group, region) in enumerate(zip(self._groups, fragment.regions, strict=True))
            ]
            for fragment in fragments
        ]
        self._bytes = [self._count_bytes(fragment) for fragment in fragments]

    @property
    def seconds_waited(self) -> float:
        """Time spent inside exchanges of payloads so far."""
        return sum(s.seconds_waited for sums in self._sums for s in sums if isinstance(s, CompressedSum))

    def sum(
        self,
        changes: Iterable[Tensor],
        *,
        fragment: int,
        group: int,
        communicator: Communicator | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Sum the changes of all units in one fragment of one group.

        Args:
            changes: One a unit of this process, shape (n,), finite; looked at one after the other. Overwritten.
            fragment: Number of the fragment.
            group: Number of the group.
            communicator: The processes in another group than the usual one.
            out: Where the sum is wanted; may be the only change, else it is none of them. Overwritten.

        Returns:
            The sum, shape (n,), the same bits on every process: ``out``, or a change, or a tensor of its own.

        Raises:
            SyncError: If an exchange fails or times out; what is owed is of no use then.

        Cost:
            For n blocks 2 (n - 1) / n of the payload's size sent by each block, besides what is exact inside. Every process
            must call this.
        """
        compressed = self._sums[fragment][group]
        if isinstance(compressed, EmulatedSum):
            return compressed.sum(changes, communicator=communicator, out=out)
        (total,) = changes
        compressed.sum_(total, communicator=communicator)
        return total

    def with_payloads(self, bytes_by_level: Sequence[int], *, fragments: Collection[int]) -> tuple[int, ...]:
        """Add what one worker sends in payloads, and exactly inside blocks, when every worker is a process of its own.

        Args:
            bytes_by_level: What it sends besides.
            fragments: Numbers of the fragments that were synced.

        Returns:
            The sum at each level.
        """
        return tuple(map(sum, zip(bytes_by_level, *(self._bytes[index] for index in fragments), strict=True)))

    def state(self) -> dict[str, Any]:
        """Give what has to be saved; tensors are not copies.

        Returns:
            ``compression``, for comparison; ``num_sums``, for each fragment; and ``residuals``: for each unit of this
            process, by its first worker, what it still owes in each group of each fragment.
        """
        residuals: dict[int, list[dict[str, Tensor]]] = {}
        for index, unit in enumerate(self.units if self._compressor.keeps_residual else ()):
            own = [s.state(index) if isinstance(s, EmulatedSum) else s.state() for sums in self._sums for s in sums]
            names = ("residual", "owned_residual")
            residuals[self._first_worker + unit.start] = [{name: part[name] for name in names} for part in own]
        num_sums = [max(compressed.num_sums for compressed in sums) for sums in self._sums]
        return {"compression": repr(self._compressor), "num_sums": num_sums, "residuals": residuals}

    def require_fit(self, state: dict[str, Any]) -> None:
        """Look at a saved state before anything is written.

        Args:
            state: What `state` returned; residuals of other processes may be there as well.

        Raises:
            ArgumentError: If the residuals of this process are not there, or of another size.
        """
        own = self.state()["residuals"]
        for worker in own:
            require(
                worker in state["residuals"],
                f"state holds residuals of the workers {sorted(state['residuals'])}, and this process needs that of worker "
                f"{worker}; load the state_dict() that this process saved itself, on as many processes.",
            )
            for needed, saved in zip(own[worker], state["residuals"][worker], strict=True):
                require_same_sizes(saved, needed)

    def load(self, state: dict[str, Any]) -> None:
        """Take a saved state.

        Args:
            state: What `state` returned, which fits. ``num_sums`` may be a number where there is one fragment, as in older
                states.
        """
        residuals, saved_sums = state["residuals"], state["num_sums"]
        num_sums = [saved_sums] if isinstance(saved_sums, int) else saved_sums
        for index, unit in enumerate(self.units if self._compressor.keeps_residual else ()):
            worker = self._first_worker + unit.start
            flat = [compressed for sums in self._sums for compressed in sums]
            for compressed, saved in zip(flat, residuals[worker], strict=True):
                if isinstance(compressed, EmulatedSum):
                    compressed.load(index, saved)
                else:
                    compressed.load(saved | {"num_sums": compressed.num_sums})
        for sums, count in zip(self._sums, num_sums, strict=True):
            for compressed in sums:
                compressed.num_sums = count

    def _make_sum(
        self, communicator: Communicator, layout: Layout, *, num_values: int, seed: int
    ) -> CompressedSum | EmulatedSum:
        if len(self.units) == 1:
            return CompressedSum(
                self._compressor,
                communicator,
                num_values=num_values,
                dtype=layout.accumulation_dtype,
                device=layout.device,
                seed=seed,
            )
        return EmulatedSum(
            self._compressor,
            communicator,
            num_units=len(self.units),
            num_values=num_values,
            dtype=layout.accumulation_dtype,
            device=layout.device,
            seed=seed,
        )

    def _count_bytes(self, fragment: Fragment) -> list[int]:
        topology, last, inside = self._topology, self._topology.num_levels, self._size_inside
        counted = [0] * last
        for group, region in zip(self._groups, fragment.regions, strict=True):
            length, size = region.stop - region.start, group.layout.accumulation_dtype.itemsize
            exact = topology.bytes_by_level(length * size, last)[: last - 1]
            buckets = cut_buckets(length // inside, device=group.layout.device)
            told = payload_bytes(self._compressor, buckets, num_members=topology.block_sizes[-1])
            counted = [before + more for before, more in zip(counted, [*exact, told], strict=True)]
        return counted


def sum_changes_(
    target: Tensor, rows: Sequence[Tensor], anchor: Tensor, *, factors: Sequence[float | None], is_rounded: bool
) -> None:
    """Sum the weighted changes of some rows since the last sync.

    Args:
        target: Shape (n,), of the anchor's dtype; may be the first of the rows. Overwritten.
        rows: What each of them has, shape (n,), of their own dtype.
        anchor: Where they began, shape (n,).
        factors: What each of them counts; ``None`` leaves it out.
        is_rounded: Whether rows began at the anchor rounded to their dtype: what that took away is no change that workers
            made.

    Cost:
        One pass over the rows. Temporary memory of two chunks.
    """
    length = target.numel()
    size = CHUNK_ELEMENTS if target.device.type == "cpu" else max(length, 1)
    for begin in range(0, length, size):
        chunk = slice(begin, min(begin + size, length))
        start = anchor[chunk].to(rows[0].dtype).to(anchor.dtype) if is_rounded else anchor[chunk]
        summed = torch.zeros_like(start)
        for values, factor in zip(rows, factors, strict=True):
            if factor is not None:
                summed.add_(values[chunk].to(anchor.dtype) - start, alpha=factor)
        target[chunk] = summed


def find_gaps(group: RowGroup) -> Tensor:
    """List the elements between parameters, which no worker changes: a payload may say otherwise.

    Args:
        group: A group of the rows.

    Returns:
        Their numbers, int64, in order.
    """
    is_gap = torch.ones(group.layout.num_parameters, dtype=torch.bool, device="cpu")
    for entry in group.layout.parameters:
        is_gap[entry.offset : entry.offset + entry.num_elements] = False
    return is_gap.nonzero().view(-1).to(group.layout.device)
