"""The mean of everyone's parameters from payloads: each block tells the others how far its workers have moved."""

from collections.abc import Collection, Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from localsgd.averaging.averager import Averager, Offender
from localsgd.averaging.facts import Facts
from localsgd.buffers.arithmetic import add_scaled_
from localsgd.buffers.fragments import Fragment
from localsgd.buffers.layout import NUM_SLOTS
from localsgd.compressed.payload_sums import PayloadSums, find_gaps, sum_changes_

__all__ = ["CompressedMean"]


@final
class CompressedMean:
    """Forms the mean of all workers, of which the parameters travel as payloads of changes since the last sync.

    The blocks of the last level (each worker, where there is one level) tell each other payloads; inside them everything is
    exact. Facts and module buffers go ahead, uncompressed, so that a sync can be refused while every row and every residual
    is as it was.

    Attributes:
        sums: What sums the changes.

    Cost:
        Buffers and slots once more; with error feedback, what the sums remember.
    """

    def __init__(
        self, sums: PayloadSums, everyone: Averager, *, first_worker: int, fragments: Sequence[Fragment]
    ) -> None:
        """Prepare.

        Args:
            sums: What sums the changes; also for syncs that overlap.
            everyone: The block of all workers.
            first_worker: Number of the worker in row 0 of this process.
            fragments: How rows are cut: each fragment has a sum of its own.
        """
        self.sums, self._everyone, self._fragments = sums, everyone, fragments
        self._groups, self._first_worker = everyone.rows.groups, first_worker
        self._is_first = everyone.communicator.rank == 0
        lengths = [group.layout.num_buffers if everyone.buffers != "local" else 0 for group in self._groups]
        self._tails = [
            torch.zeros(length + NUM_SLOTS * (index == 0), dtype=g.layout.accumulation_dtype, device=g.layout.device)
            for index, (g, length) in enumerate(zip(self._groups, lengths, strict=True))
        ]
        self._gaps = [find_gaps(group) for group in self._groups]

    @property
    def tails(self) -> Sequence[Tensor]:
        """What travels uncompressed: facts and module buffers."""
        return self._tails

    def sum_tails_(self, weights: Sequence[float] | None) -> list[Offender]:
        """Look at all rows, and begin the mean of the module buffers.

        Args:
            weights: What each row counts; ``None`` lets all count 1.

        Returns:
            Rows that must be left out. No row is changed.
        """
        for tail in self._tails:
            tail.zero_()
        offenders = []
        for row in self._everyone.members:
            offender = self._everyone.find_offender(row)
            if offender is not None:
                offenders.append(offender)
                continue
            weight = self._buffer_weight(row, 1.0 if weights is None else weights[row])
            for group, buffers in zip(self._groups, self._buffers(), strict=True):
                if weight and buffers.numel():
                    add_scaled_(buffers, group.storage[row, group.layout.buffer_region], weight)
        return offenders

    def exchange_tails_(self, facts: Facts) -> Facts:
        """Sum facts and buffers over the processes.

        Args:
            facts: This process's facts.

        Returns:
            The facts summed over all processes.

        Cost:
            One all-reduce a group that has module buffers, and for the facts. Every process must call this.
        """
        pieces = [tail for tail in self._tails if tail.numel()]
        return self._everyone.sum_pieces_(pieces, facts, slots=self._tails[0][:NUM_SLOTS])

    def mean_(
        self,
        anchors: Sequence[Tensor],
        total: Facts,
        offenders: Sequence[Offender],
        *,
        weights: Sequence[float] | None,
        except_for: Collection[int] = (),
    ) -> list[Tensor]:
        """Exchange payloads of the changes since the last sync.

        Args:
            anchors: Parameters after the last sync, one vector (P,) a group.
            total: What `exchange_tails_` returned; at least one worker is finite.
            offenders: Rows of this process that are left out; they add nothing, but what is still owed is sent.
            weights: As for `sum_tails_`.
            except_for: Numbers of fragments in which nobody has moved since their last sync: nothing is sent there.

        Returns:
            The mean of the parameters, one vector (P,) a group, the same bits on every process. The rows are overwritten.

        Raises:
            SyncError: If an exchange fails or times out; rows and residuals are of no use then.

        Cost:
            For each group of n blocks, 2 (n - 1) / n of the payload's size sent by each block, besides what is exact inside.
            Every process must call this.
        """
        excluded = {offender.worker - self._first_worker for offender in offenders}
        factors = {
            row: (1.0 if weights is None else weights[row]) / (total.weight or 1.0)
            for row in self._everyone.members
            if row not in excluded
        }
        waited, means = self.sums.seconds_waited, []
        for index, (group, anchor) in enumerate(zip(self._groups, anchors, strict=True)):
            parts = []
            for fragment in self._fragments:
                start = anchor[fragment.regions[index]]
                if fragment.index in except_for or not start.numel():
                    parts.append(start.to(group.layout.dtype).to(anchor.dtype, copy=True))
                    continue
                changes = self._changes_(fragment, index, start, factors=factors)
                part = self.sums.sum(changes, fragment=fragment.index, group=index)
                parts.append(part.add_(start.to(group.layout.dtype)))
            mean = parts[0] if len(parts) == 1 else torch.cat(parts)
            means.append(mean.index_fill_(0, self._gaps[index], 0.0))
        self._everyone.seconds_waited += self.sums.seconds_waited - waited
        return means

    def spread_buffers_(self, total: Facts) -> None:
        """Copy the mean of the module buffers into every row.

        Args:
            total: The facts summed over all processes.
        """
        for group, buffers in zip(self._groups, self._buffers(), strict=True):
            if buffers.numel():
                if self._everyone.buffers == "average" and total.weight:
                    buffers.mul_(self._everyone.num_workers / total.weight)
                group.storage[:, group.layout.buffer_region] = buffers.to(group.layout.dtype)

    def _changes_(
        self, fragment: Fragment, index: int, anchor: Tensor, *, factors: dict[int, float]
    ) -> Iterator[Tensor]:
        """Sum the weighted changes of each unit's rows, in its first row where that is wide enough."""
        group, region = self._groups[index], fragment.regions[index]
        for unit in self.sums.units:
            rows = [group.storage[row, region] for row in unit]
            change = rows[0] if rows[0].dtype == anchor.dtype else torch.empty_like(anchor)
            sum_changes_(change, rows, anchor, factors=[factors.get(row) for row in unit], is_rounded=True)
            yield change

    def _buffers(self) -> list[Tensor]:
        return [tail[NUM_SLOTS * (index == 0) :] for index, tail in enumerate(self._tails)]

    def _buffer_weight(self, row: int, weight: float) -> float:
        if self._everyone.buffers == "broadcast":
            return float(self._is_first and row == self._everyone.members[0])
        return weight / self._everyone.num_workers
