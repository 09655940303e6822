"""Exchanges of fragments in payloads, which go on beside training where syncs overlap."""

import functools
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from localsgd.averaging.averager import Averager
from localsgd.averaging.facts import Facts, from_slots
from localsgd.buffers.fragments import Fragment
from localsgd.buffers.layout import NUM_SLOTS
from localsgd.communicators import Communicator, NestedTwin, OverlappingCommunicator
from localsgd.compressed.payload_sums import PayloadSums, find_gaps, sum_changes_
from localsgd.conversation.conversation import Conversation
from localsgd.conversation.inspector import Inspector
from localsgd.late.courier import Courier
from localsgd.late.in_flight import InFlight, Lane
from localsgd.late.parcels import Parcel

__all__ = ["LatePayloads"]


@final
class LatePayloads:
    """Turns what workers had when a sync started into the mean of everyone, by payloads of what they had moved.

    The steps of such an exchange depend on each other: facts and module buffers, as they are; payloads of changes; payloads
    of their sums. So a thread of its own goes through them, one exchange after the other. If the facts tell that the sync
    will be refused, it stops there, on every process: what is owed stays as it was.

    Attributes:
        reads_later: Whether rows are read when the workers have gone on, so that they have to be copied.
    """

    def __init__(
        self,
        sums: PayloadSums,
        everyone: Averager,
        inspector: Inspector,
        *,
        anchors: Sequence[Tensor],
        fragments: Sequence[Fragment],
        twin: OverlappingCommunicator | None,
        is_rounded: bool,
    ) -> None:
        """Prepare.

        Args:
            sums: What sums the changes.
            everyone: The block of all workers.
            inspector: What will judge the exchange.
            anchors: Parameters after the last sync, one vector (P,) a group: read while an exchange goes on.
            fragments: How rows are cut.
            twin: The group in which exchanges go on beside others; ``None`` where nothing overlaps, or there is one process.
            is_rounded: Whether rows begin a round at the anchor itself, rounded to their dtype.
        """
        self._sums, self._everyone, self._inspector = sums, everyone, inspector
        self._groups, self._anchors, self._is_rounded = everyone.rows.groups, anchors, is_rounded
        self._communicator: Communicator = everyone.communicator
        self._courier: Courier | None = None
        if twin is not None:
            self._communicator = twin.nested if isinstance(twin, NestedTwin) else twin
            self._courier = Courier()
        self.reads_later = self._courier is not None
        self._gaps = [
            [_within(find_gaps(group), region) for group, region in zip(self._groups, fragment.regions, strict=True)]
            for fragment in fragments
        ]

    def send(self, flight: InFlight, parcel: Parcel, *, lane: Lane) -> None:
        """Start an exchange; in a single process it is over then.

        Args:
            flight: The exchange, with facts and buffers in its vectors; it is told how to wait for the sum.
            parcel: What it carries.
            lane: Where it runs.

        Cost:
            What `localsgd.compressed.sum.CompressedSum.sum_` costs, while this process computes. Every process must call
            this.
        """
        lane.follow()
        exchange = functools.partial(self._exchange_, flight, parcel, lane)
        if self._courier is not None:
            flight.wait = self._courier.send(exchange)
        elif self._communicator.world_size > 1:
            flight.wait = exchange
        else:
            exchange()
            lane.join()  # the rows are free to go on

    def note(self, flight: InFlight, parcel: Parcel, total: Facts, *, conversation: Conversation) -> None:
        """Keep in mind what everybody told, and what one worker sent to tell it.

        Args:
            flight: An exchange that has arrived.
            parcel: What it carried.
            total: Facts summed over all processes.
            conversation: What is told in every exchange.
        """
        about = flight.about
        conversation.note(about, total, [view for views in parcel.uncompressed(flight.vectors) for view in views])
        about["bytes_by_level"] = self._sums.with_payloads(about["bytes_by_level"], fragments=[parcel.fragment.index])

    def _exchange_(self, flight: InFlight, parcel: Parcel, lane: Lane) -> None:
        communicator = self._communicator
        before = communicator.wire_bytes
        with lane.entered():
            for views in parcel.uncompressed(flight.vectors):
                tail = torch.cat(views)
                if tail.numel():
                    communicator.all_reduce_(tail)
                for view, part in zip(views, torch.split(tail, [view.numel() for view in views]), strict=True):
                    view.copy_(part)
            total = from_slots(flight.vectors[0][:NUM_SLOTS].tolist())
            is_agreed = self._inspector.is_same_call(self._everyone, total)
            if is_agreed and self._inspector.may_average(self._everyone, total):
                self._average_(flight, parcel, total)
        flight.about["wire_bytes"] += communicator.wire_bytes - before

    def _average_(self, flight: InFlight, parcel: Parcel, total: Facts) -> None:
        """Put the mean of the parameters into the vectors; the buffers are there already."""
        out = [row in flight.broken or is_bad > 0 for row, is_bad in enumerate(flight.bad_rows.tolist())]
        factors = [None if is_out else 1.0 / (total.weight or 1.0) for is_out in out]
        for index, (piece, vector) in enumerate(zip(parcel.pieces, flight.vectors, strict=True)):
            mean, _ = piece.parts(vector, piece.begin)
            if not mean.numel():
                continue
            fragment = parcel.fragment.index
            group = next(number for number, one in enumerate(self._groups) if one is piece.group)
            anchor = self._anchors[group][piece.parameters]
            self._sums.sum(
                self._changes(flight, parcel, index, out=mean, anchor=anchor, factors=factors),
                fragment=fragment,
                group=group,
                communicator=self._communicator,
                out=mean,
            )
            mean.add_(anchor.to(piece.group.layout.dtype) if self._is_rounded else anchor)
            mean.index_fill_(0, self._gaps[fragment][group], 0.0)

    def _changes(
        self,
        flight: InFlight,
        parcel: Parcel,
        index: int,
        *,
        out: Tensor,
        anchor: Tensor,
        factors: Sequence[float | None],
    ) -> Iterator[Tensor]:
        """Give the change of each unit; that of a single one where its sum is wanted."""
        change = out if len(self._sums.units) == 1 else torch.empty_like(out)
        for unit in self._sums.units:
            rows = [parcel.values(index, row, flight.snapshots) for row in unit]
            sum_changes_(change, rows, anchor, factors=[factors[row] for row in unit], is_rounded=self._is_rounded)
            yield change


def _within(places: Tensor, region: slice) -> Tensor:
    """Keep the places in a region, counted from its beginning."""
    begin, end = torch.searchsorted(places, torch.tensor([region.start, region.stop], device=places.device)).tolist()
    return places[begin:end] - int(region.start)
