"""The mean over a block of workers: over its rows in this process first, then over its processes, in place."""

import operator
import time
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from localsgd.averaging.facts import Facts, Words, from_slots
from localsgd.averaging.offender import Offender
from localsgd.averaging.pieces import BufferPolicy, add_pieces_, bad_entries, cut_row, weigh_regions
from localsgd.averaging.worker_processes import WorkerProcesses
from localsgd.buffers.arithmetic import add_scaled_, are_finite, fill_rows_, is_finite, squared_distance
from localsgd.buffers.buckets import BUCKET_BYTES, HOST_BUCKET_BYTES, exchange_in_buckets_
from localsgd.buffers.flat import FlatRows, RowGroup
from localsgd.communicators.protocol import Communicator

__all__ = ["Averager", "BufferPolicy", "Offender"]


@final
class Averager:
    """Forms means over the workers of one block: some rows of this process, and as many of each other process in it.

    Vectors are laid out like rows (parameters, slots, buffers), one for each group of `FlatRows`. Vectors of flat groups are
    exchanged as they are; where parameters stay where they are (shards), everything travels through buckets of bounded size.
    Every method that exchanges something must be called by every process.

    Attributes:
        rows: All workers of this process.
        members: Numbers of the rows that belong to the block.
        communicator: The processes of the block.
        num_workers: Workers in the block.
        num_processes: Processes that hold them; more than the communicator has where several hold one worker together.
        worker: The processes that hold the worker of this process together.
        buffers: What happens to floating module buffers.
        seconds_waited: Time spent inside all-reduces so far.
    """

    def __init__(
        self,
        rows: FlatRows,
        communicator: Communicator,
        *,
        members: range,
        first_worker: int,
        buffers: BufferPolicy,
    ) -> None:
        """Prepare to average.

        Args:
            rows: All workers of this process.
            communicator: The processes of the block.
            members: Numbers of the rows that belong to the block.
            first_worker: Number of the worker in row 0 of this process, among all workers.
            buffers: What happens to floating module buffers: averaged, left alone, or taken from the block's first worker.
        """
        self.rows = rows
        self.members = members
        self.communicator = communicator
        self.num_workers = len(members) * communicator.world_size
        self.worker = WorkerProcesses(rows)
        self.num_processes = communicator.world_size * self.worker.size
        self._first_worker = first_worker
        self.seconds_waited = 0.0
        self.buffers = buffers
        groups = rows.flat_groups
        self._lengths = [g.layout.slots.stop if buffers == "local" else g.layout.row_length for g in groups]
        # Where rows are wide enough, the mean is formed in the first row itself.
        is_wide = [group.layout.accumulation_dtype == group.layout.dtype for group in groups]
        first = [group.storage[members[0]] for group in groups]
        self._own = [row[:n] if wide else None for row, n, wide in zip(first, self._lengths, is_wide, strict=True)]
        self._wide_rows = [own for own in self._own if own is not None] if all(is_wide) else None
        self._own_slots = first[0][groups[0].layout.slots]
        self._words = Words(groups[0].layout.accumulation_dtype, is_first=communicator.rank == 0)
        self._share = 1 / self.num_workers
        self._pieces = [
            cut_row(
                groups,
                row,
                policy=buffers,
                share=self._share,
                is_first=self._is_first(row),
                is_in_place=row == members[0],
            )
            for row in members
        ]

    def sum_rows_(self, weights: Sequence[float] | None = None) -> tuple[list[Tensor], list[Offender]]:
        """Add up this process's share of the mean: each finite row, divided by K.

        Args:
            weights: What each row of this process counts, by its number; ``None`` lets all count 1.

        Returns:
            One vector a group (parameters, slots, and the buffers unless they stay local), and the rows that were left
            out. Where the dtype is wide enough the vector is the beginning of row 0 itself, overwritten; half-precision
            rows are summed in a float32 vector of their own. Shards are given as they are, zeros if they are left out:
            they are divided when they leave their bucket.

        Cost:
            One pass over the rows; with several rows a second one over all but the first.
        """
        shards = [shard.storage[0] for shard in self.rows.shards] if self.rows.shards else []
        vectors = self._wide_rows
        if vectors is None:
            own_rows = zip(self._own, self.rows.flat_groups, self._lengths, strict=True)
            vectors = [_zeros(group, n) if own is None else own for own, group, n in own_rows]
        offenders, entering = [], []
        for row, pieces in zip(self.members, self._pieces, strict=True):
            name = self.rows.find_broken(row)
            broken = None if name is None else self.offender(row, name, is_broken=True)
            factor = 1.0 if weights is None else weights[row]
            is_whole = are_finite(shards) if shards else True
            for piece in pieces:
                is_whole &= piece.weigh_and_check_(factor)
            offender = broken or (None if is_whole else self.offender(row, self._first_bad(row)))
            if shards:
                offender = self.worker.agree(offender)
            if offender is None:
                entering.append((pieces, factor))
                continue
            offenders.append(offender)
            for source in (*shards, *(piece.source for piece in pieces if piece.is_in_place)):
                source.zero_()
        if len(self.members) > 1 or self._wide_rows is None:
            add_pieces_(vectors, entering)
        return [*vectors, *shards], offenders

    def find_offender(self, row: int) -> Offender | None:
        """Look whether a row may enter the mean: one pass over it.

        Args:
            row: Its number.

        Returns:
            The complaint; ``None`` if it may.
        """
        pieces = self._pieces[row - self.members.start]
        broken = self.find_broken(row)
        if broken or all(is_finite(piece.source) for piece in pieces):
            return broken
        return self.offender(row, self._first_bad(row))

    def find_broken(self, row: int) -> Offender | None:
        """Check that all tensors of a row still look into it.

        Args:
            row: Number of the row.

        Returns:
            The complaint, or ``None``.
        """
        name = self.rows.find_broken(row)
        return None if name is None else self.offender(row, name, is_broken=True)

    def offender(self, row: int, name: str, *, is_broken: bool = False) -> Offender:
        """Name a worker whose values cannot enter the mean.

        Args:
            row: Its row in this process.
            name: The tensor that is to blame.
            is_broken: Whether that tensor no longer looks into its row.

        Returns:
            The complaint.
        """
        return Offender(worker=self._first_worker + row, name=name, is_broken=is_broken)

    def exchange_(self, vectors: Sequence[Tensor], facts: Facts) -> Facts:
        """Sum vectors and facts over the processes, then make up for workers that were left out.

        Args:
            vectors: One a group, this process's share of the mean (already divided by K), laid out like a row as far
                as they reach. Overwritten by the mean over the finite workers; zero if there is none.
            facts: This process's facts.

        Returns:
            The facts summed over all processes.

        Cost:
            One all-reduce a group. Every process must call this.
        """
        total = self.sum_(vectors, facts)
        if total.weight != self.num_workers:
            self.make_up_(vectors, total)
        return total

    def sum_(self, vectors: Sequence[Tensor], facts: Facts, *, begins: Sequence[int] | None = None) -> Facts:
        """Sum vectors, as far as that is not being done already, and facts over the processes.

        Args:
            vectors: As for `exchange_`.
            facts: This process's facts.
            begins: For each vector the first element that is to be summed, not behind its slots; ``None`` sums all.

        Returns:
            The facts summed over all processes.

        Cost:
            One all-reduce a group. Every process must call this.
        """
        groups = self.rows.flat_groups
        slots = self._own_slots if vectors[0] is self._own[0] else vectors[0][groups[0].layout.slots]
        flat, shards = vectors[: len(groups)], vectors[len(groups) :]
        if len(groups) > 1:
            for group, vector in zip(groups[1:], flat[1:], strict=True):
                vector[group.layout.slots] = 0
        if shards:
            return self.sum_shards_(flat, shards, facts, slots=slots)
        if begins is not None:
            vectors = [vector[begin:] if begin else vector for vector, begin in zip(vectors, begins, strict=True)]
        return self.sum_pieces_(vectors, facts, slots=slots)

    def sum_shards_(self, flat: Sequence[Tensor], shards: Sequence[Tensor], facts: Facts, *, slots: Tensor) -> Facts:
        """Sum some tensors, and average others, over the processes that hold the same part of their worker.

        Facts and small vectors travel in the first bucket, with the first shards.

        Args:
            flat: Tensors of shape (n,), this process's share of a sum; those laid out like rows come first. Overwritten.
            shards: Tensors of shape (n,), not yet divided by K. Overwritten by the mean.
            facts: This process's facts.
            slots: Where they travel: a view into one of ``flat``, shape (NUM_SLOTS,). Overwritten.

        Returns:
            The facts summed over all processes.

        Cost:
            One all-reduce for each bucket of 32 MiB, on a CPU of 4 MiB, whose memory is the only temporary memory.
            Every process must call this.
        """
        self._words.write_(facts, slots)
        scales = [1.0] * len(flat) + [self._share] * len(shards)
        size = HOST_BUCKET_BYTES if slots.device.type == "cpu" else BUCKET_BYTES
        exchange_in_buckets_([*flat, *shards], self._all_reduce_, scales=scales, bucket_bytes=size)
        total = self.worker.combine(from_slots(slots.tolist()))
        if not total.is_finite:
            slots.zero_()
        for group, vector in zip(self.rows.flat_groups, flat, strict=False):
            if vector.numel() > group.layout.buffer_region.start:
                self.worker.average_(vector[group.layout.buffer_region])
        return total

    def sum_pieces_(self, pieces: Sequence[Tensor], facts: Facts, *, slots: Tensor) -> Facts:
        """Sum some tensors, and facts that lie in one of them, over the processes.

        Args:
            pieces: Tensors of shape (n,), contiguous. Overwritten.
            facts: This process's facts.
            slots: Where they travel: a view into one of the pieces, shape (NUM_SLOTS,). Overwritten.

        Returns:
            The facts summed over all processes.

        Cost:
            One all-reduce a piece. Every process must call this.
        """
        self._words.write_(facts, slots)
        for piece in pieces:
            start = time.perf_counter()
            self.communicator.all_reduce_(piece)
            self.seconds_waited += time.perf_counter() - start
        total = from_slots(slots.tolist())
        if not total.is_finite:
            # Rows are scanned with their slots in them: a loss or a drift must not pass for a parameter.
            slots.zero_()
        return total

    def make_up_(self, vectors: Sequence[Tensor], total: Facts) -> None:
        """Turn a mean over all workers, some of which were left out, into the mean over the others.

        Args:
            vectors: One a group, wholly summed. Overwritten unless nobody was left out.
            total: The facts summed over all processes.
        """
        if 0 < total.weight != self.num_workers:
            for group, vector in zip(self.rows.groups, vectors, strict=True):
                region, _ = self._regions(group, self.members[0])[0]
                vector[region].mul_(self.num_workers / total.weight)

    def gather_offenders(self, offenders: list[Offender]) -> list[Offender]:
        """List the offenders of all processes.

        Args:
            offenders: Those of this process.

        Returns:
            All of them, by worker.

        Cost:
            One exchange of small objects. Every process must call this.
        """
        return [offender for found in self.communicator.gather(offenders) for offender in found]

    def spread_(self, vectors: Sequence[Tensor]) -> None:
        """Copy the mean into every row: parameters, and buffers unless they stay local.

        Args:
            vectors: One a group, as `exchange_` left them.
        """
        if len(self.members) == 1 and not self.rows.shards and all(map(operator.is_, vectors, self._own)):
            return  # formed in the only row
        for group, vector in zip(self.rows.groups, vectors, strict=True):
            rows = self._storage(group)
            others = rows[1:] if rows.data_ptr() == vector.data_ptr() else rows
            if len(others):
                fill_rows_(others[:, : vector.numel()], vector)

    def spread_buffers_(self, vectors: Sequence[Tensor]) -> None:
        """Copy only the mean of the buffers into every row, unless they stay local.

        Args:
            vectors: One a flat group, as `exchange_` left them.
        """
        if self.buffers != "local":
            for group, vector in zip(self.rows.flat_groups, vectors, strict=True):
                self._storage(group)[:, group.layout.buffer_region] = vector[group.layout.buffer_region].to(
                    group.layout.dtype
                )

    def find_bad_buffer(self, row: int) -> str | None:
        """Look for a buffer with an infinity or a NaN, among those that take part in the mean.

        Args:
            row: Number of the row.

        Returns:
            The name of the first one; ``None`` if all are finite.
        """
        for group in self.rows.flat_groups if self.buffers != "local" else ():
            if group.layout.num_buffers and not is_finite(group.storage[row, group.layout.buffer_region]):
                return next(bad_entries([group], row, only_buffers=True), "a buffer")
        return None

    def add_buffers_(self, vectors: Sequence[Tensor], row: int) -> None:
        """Add a row's buffers to this process's share of the mean, weighted by the buffer policy.

        Args:
            vectors: One a flat group. The region of the buffers is overwritten.
            row: Number of the row.
        """
        if self.buffers == "local":
            return
        for group, vector in zip(self.rows.flat_groups, vectors, strict=True):
            region, factor = group.layout.buffer_region, self._regions(group, row)[-1][1]
            if group.layout.num_buffers:
                add_scaled_(vector[region], group.storage[row, region], factor)

    def squared_drift(self, anchors: Sequence[Tensor]) -> float:
        """Sum the squared distances of this process's rows to the anchors.

        Args:
            anchors: Parameters after the last sync, one vector (P,) a group.

        Returns:
            The sum over the rows, as far as this process holds them.
        """
        return sum(
            squared_distance(row[: group.layout.num_parameters], anchor)
            for group, anchor in zip(self.rows.groups, anchors, strict=True)
            for row in self._storage(group)
        )

    def squared_change(self, vectors: Sequence[Tensor], anchors: Sequence[Tensor]) -> float:
        """Give the squared distance of the mean to the anchors.

        Args:
            vectors: The mean, one vector a group, laid out like a row.
            anchors: Parameters after the last sync, one vector (P,) a group.

        Returns:
            The squared distance over all parameters, those that other processes hold included.
        """
        pairs = zip(self.rows.groups, vectors, anchors, strict=True)
        return self.worker.sum(sum(squared_distance(v[: g.layout.num_parameters], anchor) for g, v, anchor in pairs))

    def _storage(self, group: RowGroup) -> Tensor:
        return group.storage[self.members.start : self.members.stop]

    def _is_first(self, row: int) -> bool:
        return self.communicator.rank == 0 and row == self.members[0]

    def _regions(self, group: RowGroup, row: int) -> list[tuple[slice, float]]:
        return weigh_regions(group.layout, self.buffers, share=self._share, is_first=self._is_first(row))

    def _first_bad(self, row: int) -> str:
        return next(bad_entries(self.rows.groups, row), "a parameter")

    def _all_reduce_(self, vector: Tensor) -> None:
        start = time.perf_counter()
        self.communicator.all_reduce_(vector)
        self.seconds_waited += time.perf_counter() - start


def _zeros(group: RowGroup, length: int) -> Tensor:
    return torch.zeros(length, dtype=group.layout.accumulation_dtype, device=group.layout.device)
