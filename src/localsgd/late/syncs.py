"""Syncs of everyone's parameters that land later than they start, that go by fragments, or both."""

import time
from collections.abc import Sequence
from typing import Any, final

from localsgd._checks import require
from localsgd.averaging.averager import Averager
from localsgd.averaging.consensus import Consensus, describe_drift
from localsgd.averaging.facts import from_slots
from localsgd.buffers.fragments import Fragment, due_step
from localsgd.compressed.payload_sums import PayloadSums
from localsgd.conversation.conversation import Conversation
from localsgd.errors import SyncError
from localsgd.late.in_flight import (
    InFlight,
    Lane,
    arrive,
    give_up,
    give_up_at_exit,
    name_offenders,
    revive,
    saved_by_all,
    saved_by_worker,
    send,
    write_facts,
)
from localsgd.late.parcels import Parcel
from localsgd.late.payloads import LatePayloads
from localsgd.late.twins import find_twin
from localsgd.reports import SyncKind
from localsgd.topology import Topology

__all__ = ["LateSyncs"]


@final
class LateSyncs:
    """Starts the syncs of everyone's parameters, keeps those that are under way, and lets them land.

    Attributes:
        overlaps: Whether they land later than they start.

    Cost:
        One copy of the rows of this process and one vector while a sync of everything is under way; the vector alone with
        ``mixing``, unless a thread makes payloads of the rows. One more group of processes.
    """

    def __init__(
        self,
        everyone: Averager,
        topology: Topology,
        *,
        first_worker: int,
        consensus: Consensus,
        conversation: Conversation,
        sums: PayloadSums | None,
        fragments: Sequence[Fragment],
        overlap_steps: int,
        mixing: float | None,
        measure_drift: bool,
    ) -> None:
        """Prepare; nothing is under way.

        Args:
            everyone: The block of all workers.
            topology: Who averages with whom.
            first_worker: Number of the worker in row 0 of this process.
            consensus: What lies between syncs.
            conversation: What is told in every exchange.
            sums: What sums changes that travel as payloads; ``None`` sends parameters as they are.
            fragments: How rows are cut.
            overlap_steps: Steps from the start of a sync to its landing.
            mixing: A row's own share when a sync lands; ``None`` keeps its progress.
            measure_drift: Whether to report drift and cosine.

        Raises:
            ArgumentError: If the communicator cannot sum while this process computes.

        Cost:
            One new group of processes where syncs overlap. Every process must call this.
        """
        self._everyone, self._level, self._first_worker = everyone, topology.num_levels, first_worker
        self._consensus, self._conversation, self._fragments = consensus, conversation, fragments
        self._overlap_steps, self._mixing, self._measure_drift = overlap_steps, mixing, measure_drift
        self.overlaps = overlap_steps > 0
        self._rows = everyone.rows
        is_first = everyone.communicator.rank == 0
        self._parcels = [
            Parcel(f, self._rows, num_workers=topology.num_workers, buffers=everyone.buffers, is_first=is_first)
            for f in fragments
        ]
        self._lane = Lane(self._rows)
        self._is_rounded = not overlap_steps or mixing == 0  # rows begin a round at the anchor itself
        self._twin = find_twin(everyone.communicator, is_threaded=sums is not None) if overlap_steps else None
        self._payloads: LatePayloads | None = None
        if sums is not None:
            self._payloads = LatePayloads(
                sums,
                everyone,
                conversation.inspector,
                anchors=consensus.anchors,
                fragments=fragments,
                twin=self._twin,
                is_rounded=self._is_rounded,
            )
        self._flights: list[InFlight] = []
        give_up_at_exit(self, self._flights, self._lane)
        self._next_fragment = 0
        self._synced_at = [0] * len(fragments)

    def next_event(self, begin: int, end: int | None) -> int | None:
        """Say when something lands or starts, apart from the sync that ends the round.

        Args:
            begin: Step after which the round began.
            end: Step that ends it; ``None`` if it has no end.

        Returns:
            Steps taken then; ``None`` if nothing is to come.
        """
        events = [flight.due for flight in self._flights]
        if end is not None and self._next_fragment + 1 < len(self._fragments):
            events.append(due_step(begin, end, self._next_fragment, num_fragments=len(self._fragments)))
        return min(events, default=None)

    def is_settled(self, step: int) -> bool:
        """Say whether nothing is under way, and all fragments were last synced at the same time.

        Args:
            step: Steps taken by each worker.

        Returns:
            Whether a sync of everyone now would change nothing, if the last fragment has just been synced.
        """
        return not self._flights and (len(self._fragments) == 1 or all(synced == step for synced in self._synced_at))

    def fresh_fragments(self, step: int) -> list[int]:
        """List the fragments in which nobody has moved since their last sync.

        Args:
            step: Steps taken by each worker.

        Returns:
            Their numbers.
        """
        return [index for index, synced in enumerate(self._synced_at) if synced == step > 0]

    def note_whole_sync(self, step: int) -> None:
        """Begin a new round: everything was synced at once.

        Args:
            step: Steps taken by each worker.
        """
        self._next_fragment = 0
        self._synced_at = [step] * len(self._fragments)

    def land(self, step: int, *, due_only: bool) -> list[int]:
        """Let syncs land.

        Args:
            step: Steps taken by each worker.
            due_only: Whether only those land that are due; otherwise all of them.

        Returns:
            Rows of this process that were left out of the mean, which they now hold.

        Raises:
            DisagreementError: If processes did not mean to do the same.
            BrokenViewError: If a parameter did not look into its row when the sync started.
            NonFiniteError: If a worker was not finite and the policy says so, or if none was; nothing has landed then.
            SyncError: If the exchange failed.

        Cost:
            Whatever is left of the exchanges. Every process must call this.
        """
        excluded: list[int] = []
        while self._flights and (not due_only or self._flights[0].due <= step):
            excluded += self._settle(self._flights[0], step)
        return excluded

    def has_due_fragment(self, step: int, begin: int, end: int | None) -> bool:
        """Say whether a fragment, apart from the last, is to start now.

        Args:
            step: Steps taken by each worker.
            begin: Step after which the round began.
            end: Step that ends it; ``None`` if it has no end.

        Returns:
            Whether one is.
        """
        coming, count = self._next_fragment, len(self._fragments)
        return end is not None and coming + 1 < count and due_step(begin, end, coming, num_fragments=count) <= step

    def start_fragments(self, step: int, *, begin: int, end: int | None, inner_lr: float) -> list[int]:
        """Start the fragments that are due inside a round.

        Args:
            step: Steps taken by each worker.
            begin: Step after which the round began.
            end: Step that ends it; ``None`` if it has no end.
            inner_lr: Learning rate of the steps just taken.

        Returns:
            Rows that were left out of the mean, as in `land`.
        """
        excluded: list[int] = []
        while self.has_due_fragment(step, begin, end):
            excluded += self._start(self._fragments[self._next_fragment], step, inner_lr=inner_lr)
            self._next_fragment += 1
        return excluded

    def start_rest(self, step: int, *, inner_lr: float) -> list[int]:
        """Start what ends a round: the last fragment, and those before it that have not had their turn.

        Args:
            step: Steps taken by each worker.
            inner_lr: Learning rate of the round just ended.

        Returns:
            Rows that were left out of the mean, as in `land`.
        """
        excluded: list[int] = []
        for fragment in self._fragments[self._next_fragment :]:
            excluded += self._start(fragment, step, inner_lr=inner_lr)
        self._next_fragment = 0
        return excluded

    def state(self) -> dict[str, Any]:
        """Give what has to be saved; waits for exchanges that are under way, and lets none land.

        Returns:
            ``overlap``, for comparison; ``next_fragment`` and ``synced_at``; ``in_flight``, the same on every process; and
            ``snapshots``: for each worker of this process what it had when each of these started. Tensors are not copies.

        Raises:
            SyncError: If an exchange failed.
        """
        for flight in self._flights:
            self._arrive(flight)
        workers = {self._first_worker + row: row for row in range(self._rows.num_rows if self._flights else 0)}
        snapshots = {
            worker: [saved_by_worker(flight, row) for flight in self._flights] for worker, row in workers.items()
        }
        shared = [saved_by_all(flight) for flight in self._flights]
        numbers = {"next_fragment": self._next_fragment, "synced_at": list(self._synced_at)}
        return {"overlap": self.describe(), **numbers, "in_flight": shared, "snapshots": snapshots}

    def require_fit(self, state: dict[str, Any]) -> None:
        """Look at a saved state before anything is written.

        Args:
            state: What `state` returned; snapshots of other processes' workers may be there as well.

        Raises:
            ArgumentError: If the snapshots of this process's workers are not there.
        """
        workers = range(self._first_worker, self._first_worker + self._rows.num_rows)
        missing = [worker for worker in workers if state["in_flight"] and worker not in state["snapshots"]]
        require(
            not missing,
            f"state holds snapshots of the workers {sorted(state['snapshots'])}, and this process needs those of "
            f"{missing}; load the state_dict() that this process saved itself, or put those of all processes together.",
        )

    def load(self, state: dict[str, Any]) -> None:
        """Take a saved state; what is under way is given up.

        Args:
            state: What `state` returned, which fits.
        """
        workers = range(self._first_worker, self._first_worker + self._rows.num_rows)
        give_up(self._flights, self._lane)
        self._next_fragment, self._synced_at = state["next_fragment"], list(state["synced_at"])
        for index, saved in enumerate(state["in_flight"]):
            own = [state["snapshots"][worker][index] for worker in workers]
            self._flights.append(revive(saved, own, self._parcels[saved["fragment"]], everyone=self._everyone))

    def describe(self) -> str:
        """Word the options with which a state fits."""
        return f"overlap_steps={self._overlap_steps}, overlap_mixing={self._mixing}, fragments={len(self._fragments)}"

    @property
    def _keeps_snapshots(self) -> bool:
        """Whether somebody looks at what rows had when the sync started: the landing, or a thread."""
        reads_later = self._payloads is not None and self._payloads.reads_later
        return self._overlap_steps > 0 and (self._mixing is None or reads_later)

    def _start(self, fragment: Fragment, step: int, *, inner_lr: float) -> list[int]:
        earlier = [flight for flight in self._flights if flight.fragment is fragment]
        excluded = []
        for flight in earlier:
            excluded += self._settle(flight, step)
        flight = self._take_off(fragment, step, kind="parameters", inner_lr=inner_lr)
        self._synced_at[fragment.index] = step
        self._flights.append(flight)
        if not self._overlap_steps:
            excluded += self._settle(flight, step)
        return excluded

    def _take_off(self, fragment: Fragment, step: int, *, kind: SyncKind, inner_lr: float) -> InFlight:
        ledger, parcel, start = self._conversation.ledger, self._parcels[fragment.index], time.perf_counter()
        about = ledger.begin_late(step=step, level=self._level, kind=kind)
        about["fragment"] = fragment.index if len(self._fragments) > 1 else None
        found = [self._everyone.find_broken(row) for row in range(self._rows.num_rows)]
        broken = {row: offender for row, offender in enumerate(found) if offender is not None}
        snapshots = parcel.snapshots() if self._keeps_snapshots else []
        vectors, bad_rows = parcel.sum_rows(list(broken), only_buffers=self._payloads is not None)
        facts = self._conversation.facts(
            self._everyone,
            list(broken.values()),
            level=self._level,
            inner_lr=inner_lr,
            squared_drift=self._consensus.squared_drift(fragment) if self._measure_drift else 0.0,
            tag=self._conversation.inspector.tag(kind, step),
        )
        if fragment.is_last:
            ledger.clear_losses(self._level)
        flight = InFlight(
            fragment=fragment,
            step=step,
            due=step + self._overlap_steps,
            about=about,
            vectors=vectors,
            snapshots=snapshots,
            bad_rows=bad_rows,
            broken=broken,
            wait=None,
        )
        communicator = self._everyone.communicator
        write_facts(flight, facts, is_first=communicator.rank == 0)
        if self._payloads is None:
            send(flight, communicator, twin=self._twin, lane=self._lane)
        else:
            self._payloads.send(flight, parcel, lane=self._lane)
        about["seconds"] += time.perf_counter() - start
        return flight

    def _arrive(self, flight: InFlight) -> None:
        """Wait for an exchange and compare intentions, once: one that was saved may be revived by fewer processes."""
        if flight.facts is not None:
            return
        try:
            arrive(flight, self._lane)
        except SyncError as error:
            number = self._conversation.ledger.num_rounds + 1
            what = "" if len(self._fragments) == 1 else f", fragment {flight.fragment.index}"
            raise SyncError(
                f"sync at level {self._level} in round {number}{what}, which began after step {flight.step} and was to land "
                f"after step {flight.due}, failed: {error}"
            ) from error
        total = from_slots(flight.facts or [])
        self._conversation.inspector.require_same_call(
            self._everyone, total, kind=flight.about["kind"], step=flight.step
        )

    def _settle(self, flight: InFlight, step: int) -> list[int]:
        """Let an exchange land. One that fails is forgotten; an interrupt of the wait for it leaves it under way."""
        try:
            self._arrive(flight)
        except Exception:
            self._flights.remove(flight)
            raise
        self._flights.remove(flight)
        return self._land(flight, step)

    def _land(self, flight: InFlight, step: int) -> list[int]:
        start, parcel = time.perf_counter(), self._parcels[flight.fragment.index]
        about, conversation = flight.about, self._conversation
        total = from_slots(flight.facts or [])
        inspector = conversation.inspector
        is_as_it_was = bool(flight.snapshots) or not self._overlap_steps
        offenders = name_offenders(flight, parcel, self._everyone, can_look=is_as_it_was)
        inspector.judge(self._everyone, total, offenders, step=flight.step, level=self._level, is_averaged=False)
        about["overlapped_steps"] = step - flight.step
        if self._payloads is None:
            conversation.note(about, total, flight.vectors)
        else:
            self._payloads.note(flight, parcel, total, conversation=conversation)
        parcel.make_up_(flight.vectors, weight=total.weight, only_buffers=self._payloads is not None)
        means = parcel.means(flight.vectors)
        if self._measure_drift:
            about.update(describe_drift(total, self._consensus.squared_change(flight.fragment, means)))
            if self._payloads is not None:
                about["cosine"] = None  # what arrived does not tell where the workers' changes pointed
        self._consensus.step_fragment_(
            flight.fragment, means, inner_lr=total.learning_rate, is_rounded=self._is_rounded
        )
        excluded = [offender.worker - self._first_worker for offender in offenders]
        for row in range(self._rows.num_rows):
            self._rows.find_broken(row)  # takes back buffers that were bound anew; the next sync tells about the rest
            if step == flight.step or row in excluded:
                parcel.replace_(flight.vectors, row)
            else:
                parcel.land_(flight.vectors, flight.snapshots, row, mixing=self._mixing)
        about["seconds"] += time.perf_counter() - start
        conversation.ledger.close_late(about)
        return excluded
