"""One exchange of everyone's rows that is under way: what it needs until it lands, where it runs, how it is saved."""

import atexit
import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from localsgd.averaging.averager import Averager, Offender
from localsgd.averaging.facts import Facts, to_slots
from localsgd.buffers.flat import FlatRows
from localsgd.buffers.fragments import Fragment
from localsgd.buffers.layout import NUM_SLOTS
from localsgd.communicators import Communicator, OverlappingCommunicator
from localsgd.late.parcels import Parcel

__all__ = [
    "InFlight",
    "Lane",
    "arrive",
    "give_up",
    "give_up_at_exit",
    "name_offenders",
    "revive",
    "saved_by_all",
    "saved_by_worker",
    "send",
    "write_facts",
]

_WEIGHT, _FINITE, _STOP_VOTES = map(Facts._fields.index, ("weight", "finite_workers", "stop_votes"))


@final
class Lane:
    """Where exchanges run beside training: streams of their own on accelerators, and nothing of the kind on a CPU."""

    def __init__(self, rows: FlatRows) -> None:
        """Make a stream for each accelerator.

        Args:
            rows: The workers of this process.
        """
        devices = {group.layout.device for group in rows.groups}
        new: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream
        self._streams = {device: new(device) for device in devices if device.type == "cuda"}

    def follow(self) -> None:
        """Let what is queued here from now on come after all that the training has queued by now; nobody waits."""
        for device, stream in self._streams.items():
            stream.wait_stream(torch.cuda.current_stream(device))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Queue here what is done inside a ``with`` block."""
        with ExitStack() as stack:
            for stream in self._streams.values():
                stack.enter_context(torch.cuda.stream(stream))
            yield

    def join(self) -> None:
        """Wait until all that is queued here is done, not for the training; the training goes on after it."""
        for device, stream in self._streams.items():
            stream.synchronize()
            torch.cuda.current_stream(device).wait_stream(stream)


@final
@dataclass(eq=False, kw_only=True)  # not frozen: what it is waiting for arrives
class InFlight:
    """An exchange, from its beginning until it has landed."""

    fragment: Fragment
    """What it is about."""
    step: int
    """Steps that the workers had taken when it began."""
    due: int
    """Steps after which it lands."""
    about: dict[str, Any]
    """Its account."""
    vectors: list[Tensor]
    """The sum, one a piece, as soon as it has arrived; facts stand first. What came in payloads is the mean already."""
    snapshots: list[Tensor]
    """What each row of this process had, shape (V, n) a piece; nothing where nobody looks at it."""
    bad_rows: Tensor
    """For each row of this process how many of its pieces are not finite; shape (V,)."""
    broken: dict[int, Offender]
    """Rows of this process with a tensor that no longer looked into them."""
    wait: Callable[[], None] | None
    """Returns when the sum has arrived; ``None`` if it has."""
    facts: list[float] | None = None
    """The summed facts, as soon as they were read."""
    bad_list: list[float] | None = None
    """``bad_rows`` on the host, likewise."""


def write_facts(flight: InFlight, facts: Facts, *, is_first: bool) -> None:
    """Put facts into the first vector; which rows are not finite is known on the device alone, and stays there.

    Args:
        flight: The exchange, not sent yet.
        facts: What this process has to tell, as if all rows were finite that are not broken.
        is_first: Whether this is the process whose learning rate counts.
    """
    slots = flight.vectors[0]
    values = torch.tensor(to_slots(facts, is_first=is_first), dtype=slots.dtype, device="cpu")
    if slots.device.type == "cuda":
        values = values.pin_memory()
    slots[: values.numel()].copy_(values, non_blocking=True)
    is_bad = flight.bad_rows > 0
    for row in flight.broken:
        is_bad[row] = False  # the facts have left it out
    for index in (_WEIGHT, _FINITE):
        slots[index] -= is_bad.sum()


def send(flight: InFlight, communicator: Communicator, *, twin: OverlappingCommunicator | None, lane: Lane) -> None:
    """Start an exchange.

    Args:
        flight: The exchange; it is told how to wait for the sum.
        communicator: All processes.
        twin: The same processes in the group in which exchanges go on beside others; ``None`` leaves the whole exchange to
            the wait.
        lane: Where it runs.

    Raises:
        SyncError: If it cannot be started.
    """
    if communicator.world_size == 1:
        return
    lane.follow()
    if twin is None:
        flight.wait = _one_after_another(flight.vectors, communicator, flight.about)
        return
    before = twin.wire_bytes
    with lane.entered():
        waits = [twin.start_all_reduce_(vector) for vector in flight.vectors]
    flight.about["wire_bytes"] += twin.wire_bytes - before
    flight.wait = _all_of(waits, twin, flight.about)


def arrive(flight: InFlight, lane: Lane) -> None:
    """Wait for an exchange, and read what everybody told.

    Args:
        flight: The exchange; its account is told how long that took.
        lane: Where it runs.

    Raises:
        SyncError: If it failed.
    """
    if flight.facts is not None:
        return
    start = time.perf_counter()
    if flight.wait is None:
        lane.follow()
    with lane.entered():
        if flight.wait is not None:
            flight.wait()
        slots = flight.vectors[0][:NUM_SLOTS].to("cpu", non_blocking=True)
        bad_rows = flight.bad_rows.to("cpu", non_blocking=True)
    lane.join()
    flight.facts, flight.bad_list, flight.wait = slots.tolist(), bad_rows.tolist(), None
    elapsed = time.perf_counter() - start
    flight.about["seconds"] += elapsed
    flight.about["seconds_waited"] += elapsed


def name_offenders(flight: InFlight, parcel: Parcel, everyone: Averager, *, can_look: bool) -> list[Offender]:
    """List the rows of this process that were left out of an exchange.

    Args:
        flight: The exchange, which has arrived.
        parcel: What it carries.
        everyone: The block of all workers.
        can_look: Whether what the rows had when it began is still there, so that the tensor can be named.

    Returns:
        The rows, each with what was wrong.
    """
    found = []
    for row, is_bad in enumerate(flight.bad_list or []):
        if row in flight.broken:
            found.append(flight.broken[row])
        elif is_bad:
            found.append(everyone.offender(row, parcel.find_bad(row, flight.snapshots) if can_look else "a parameter"))
    return found


def give_up(flights: list[InFlight], lane: Lane) -> None:
    """Wait for what is under way, whatever becomes of it, and forget it; if it fails, the next exchange tells why.

    Args:
        flights: Exchanges, the earliest first. Emptied.
        lane: Where they run.
    """
    while flights:
        with contextlib.suppress(Exception):
            arrive(flights.pop(0), lane)


def give_up_at_exit(owner: object, flights: list[InFlight], lane: Lane) -> None:
    """Wait for what is under way when Python ends: a process that ends while Gloo's threads are at work is aborted at times.

    Args:
        owner: Who lets exchanges land; it is not kept alive, and what it leaves under way is waited for all the same.
        flights: Its exchanges.
        lane: Where they run.
    """
    wait = functools.partial(give_up, flights, lane)
    atexit.register(wait)
    weakref.finalize(owner, _forget, flights, wait).atexit = False


def saved_by_all(flight: InFlight) -> dict[str, Any]:
    """Give what has to be saved of an exchange that has arrived, and is the same on every process.

    Args:
        flight: The exchange.

    Returns:
        Numbers, and the sums, which are not copies.
    """
    numbers = {"fragment": flight.fragment.index, "step": flight.step, "due": flight.due}
    return {**numbers, "about": dict(flight.about), "sums": list(flight.vectors)}


def saved_by_worker(flight: InFlight, row: int) -> dict[str, Any]:
    """Give what has to be saved of an exchange for one worker.

    Args:
        flight: The exchange, which has arrived.
        row: The worker's row.

    Returns:
        ``values``, copies of what it had; ``is_bad`` and ``broken``, why it was left out.
    """
    broken = flight.broken.get(row)
    return {
        "values": [snapshot[row].clone() for snapshot in flight.snapshots],
        "is_bad": bool((flight.bad_list or [])[row]),
        "broken": None if broken is None else broken.name,
    }


def revive(
    saved: Mapping[str, Any], own: Sequence[Mapping[str, Any]], parcel: Parcel, *, everyone: Averager
) -> InFlight:
    """Make an exchange that has arrived from what was saved of it.

    Args:
        saved: What `saved_by_all` returned.
        own: What `saved_by_worker` returned, one a row of this process.
        parcel: What the exchange carries.
        everyone: The block of all workers.

    Returns:
        The exchange.
    """
    vectors, bad_rows = parcel.sum_rows(range(len(own)))
    for vector, sums in zip(vectors, saved["sums"], strict=True):
        vector.copy_(sums)
    vectors[0][_STOP_VOTES] = 0  # whoever wanted to stop has stopped: that is why this was saved
    snapshots = [
        torch.stack([part["values"][index].to(piece.group.storage) for part in own])
        for index, piece in enumerate(parcel.pieces if own[0]["values"] else ())
    ]
    names = {row: part["broken"] for row, part in enumerate(own) if part["broken"] is not None}
    return InFlight(
        fragment=parcel.fragment,
        step=saved["step"],
        due=saved["due"],
        about=dict(saved["about"]),
        vectors=vectors,
        snapshots=snapshots,
        bad_rows=torch.tensor([float(part["is_bad"]) for part in own]).to(bad_rows),
        broken={row: everyone.offender(row, name, is_broken=True) for row, name in names.items()},
        wait=None,
        facts=vectors[0][:NUM_SLOTS].tolist(),
        bad_list=[float(part["is_bad"]) for part in own],
    )


def _forget(flights: list[InFlight], wait: Callable[[], None]) -> None:
    """Nobody is left for whom something could land."""
    if not flights:
        atexit.unregister(wait)


def _one_after_another(
    vectors: Sequence[Tensor], communicator: Communicator, about: dict[str, Any]
) -> Callable[[], None]:
    return _all_of([functools.partial(communicator.all_reduce_, vector) for vector in vectors], communicator, about)


def _all_of(
    parts: Sequence[Callable[[], None]], communicator: Communicator, about: dict[str, Any]
) -> Callable[[], None]:
    left = list(parts)

    def wait() -> None:
        before = communicator.wire_bytes
        try:
            while left:  # after an interrupt it goes on where it was
                left[0]()
                del left[0]
        finally:
            about["wire_bytes"] += communicator.wire_bytes - before

    return wait
