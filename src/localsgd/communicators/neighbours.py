"""Connections between processes of one host: they meet without spinning, and notice at once when one of them is gone."""

import contextlib
import os
import secrets
import select
import socket
import struct
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TypeVar, final

from localsgd.communicators.processes import Processes
from localsgd.errors import ArgumentError, SyncError

__all__ = ["Neighbours", "Note"]

_T = TypeVar("_T")

_FORM = struct.Struct("<BQ")
"""A note on its way: its kind, and a number."""

_PATIENCE_SECONDS = 60.0
"""How long to wait for connections; all processes are there already when they are made."""


class Note(IntEnum):
    """Kinds of notes; those of one kind keep their order, whatever comes in between."""

    MEETING = 0
    """The sender has come to a meeting."""
    POSTED = 1
    """The sender has laid something out; the number says where."""
    DONE = 2
    """The sender has read what everybody had laid out."""


@final
class Neighbours:
    """Local sockets between every two processes of a group, without a file and without a port.

    Attributes:
        rank: Number of this process in the group.
        world_size: Number of processes in the group.
        descriptors: What each process shares, by rank; open in this process, whose own is among them; empty once closed.
    """

    def __init__(self, processes: Processes, share: Callable[[], int], *, timeout_seconds: float) -> None:
        """Connect, and exchange one file descriptor each.

        Args:
            processes: The group.
            share: Makes the descriptor that the others get, whose owner this object becomes; may raise ``OSError``.
            timeout_seconds: How long to wait for others in `meet`.

        Raises:
            ArgumentError: If the processes do not all run on one host that can do this; on every process.

        Cost:
            Three exchanges of small objects, and a socket and a descriptor for each other process. Every process must call
            this.
        """
        self.rank, self.world_size = processes.rank, processes.world_size
        self.descriptors: list[int] = [-1] * self.world_size
        self._peers: dict[int, socket.socket] = {}
        self._hang_up = weakref.finalize(self, _hang_up, self._peers, self.descriptors)
        try:
            listener, address = _everywhere(processes, lambda: self._prepare(share))
            with listener:
                hosts, addresses = zip(*processes.gather((_host(), address)), strict=True)
                strangers = [rank for rank, host in enumerate(hosts) if host != hosts[0]]
                if strangers:
                    raise ArgumentError(f"process {strangers[0]} is on another host than process 0; use Processes().")
                _everywhere(processes, lambda: self._connect(listener, addresses))
        except BaseException:
            self.close()
            raise
        self._timeout_seconds = timeout_seconds
        self._notes: dict[Note, dict[int, deque[int]]] = {
            kind: {rank: deque() for rank in self._peers} for kind in Note
        }
        self._torn = dict.fromkeys(self._peers, b"")
        self._gone: set[int] = set()
        self._ranks = {peer.fileno(): rank for rank, peer in self._peers.items()}
        self._poller = select.poll()
        for descriptor in self._ranks:
            self._poller.register(descriptor, select.POLLIN)

    def meet(self) -> None:
        """Wait until all processes have come here.

        Raises:
            SyncError: If one has ended, or does not come in time; the message names it.

        Cost:
            One note to and from every other process; nobody spins. Every process must call this.
        """
        self.tell(Note.MEETING)
        self.hear(Note.MEETING)

    def tell(self, kind: Note, number: int = 0) -> None:
        """Send a note to every other process, without waiting.

        Args:
            kind: What it is about.
            number: What it says, in [0, 2^64).

        Raises:
            SyncError: If one has ended, who would have had to hear it; that nobody is left to hear `Note.DONE` is no loss.
        """
        note = _FORM.pack(kind, number)
        for rank, peer in self._peers.items():
            try:
                peer.sendall(note)
            except OSError as error:
                if kind is not Note.DONE:
                    raise self._lost(rank, "has ended") from error

    def hear(self, kind: Note) -> dict[int, int]:
        """Wait until every other process has sent one more note of a kind.

        Args:
            kind: What it is about.

        Returns:
            What the notes say, by rank.

        Raises:
            SyncError: If one has ended, or sends none in time; the message names it.
        """
        notes = self._notes[kind]
        deadline = time.monotonic() + self._timeout_seconds
        while late := [rank for rank, own in notes.items() if not own]:
            for rank in late:
                if rank in self._gone:
                    raise self._lost(rank, "has ended")
            if not self._listen(max(0.0, deadline - time.monotonic())):
                raise self._lost(late[0], f"did not come within {self._timeout_seconds:g} s")
        return {rank: own.popleft() for rank, own in notes.items()}

    def take(self, kind: Note) -> int:
        """Look, without waiting, how many notes of a kind have come from every other process, and put these away.

        Args:
            kind: What they are about.

        Returns:
            The number; at least that many have come from each.
        """
        self._listen(0)
        notes = self._notes[kind].values()
        number = min(map(len, notes), default=0)
        for own in notes:
            for _ in range(number):
                own.popleft()
        return number

    def close(self) -> None:
        """Close the connections and descriptors; others that wait for this process fail."""
        self._hang_up()

    def _listen(self, seconds: float) -> bool:
        """Take in what has come; wait for something if there is nothing. Tell whether there was something."""
        ready = self._poller.poll(1000 * seconds)
        for descriptor, _ in ready:
            rank = self._ranks[descriptor]
            came = b""
            with contextlib.suppress(OSError):  # reset: it has ended, too
                came = self._peers[rank].recv(4096)
            if not came:  # perhaps in good order, when it was done: what it has said counts
                self._gone.add(rank)
                self._poller.unregister(descriptor)
            came = self._torn[rank] + came
            end = len(came) // _FORM.size * _FORM.size
            for kind, number in _FORM.iter_unpack(came[:end]):
                self._notes[Note(kind)][rank].append(number)
            self._torn[rank] = came[end:]
        return bool(ready)

    def _lost(self, rank: int, what: str) -> SyncError:
        return SyncError(
            f"process {rank} of {self.world_size} {what}; look at its log, and start again from the last checkpoint."
        )

    def _prepare(self, share: Callable[[], int]) -> tuple[socket.socket, str]:
        """Make what others get, and a socket with an abstract name, which vanishes with this process."""
        if sys.platform != "linux":
            raise ArgumentError(f"processes share memory on Linux only, and this is {sys.platform}; use Processes().")
        self.descriptors[self.rank] = share()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.settimeout(_PATIENCE_SECONDS)
        address = f"\0localsgd-{secrets.token_hex(16)}"
        listener.bind(address)
        listener.listen(self.world_size)
        return listener, address

    def _connect(self, listener: socket.socket, addresses: tuple[str, ...]) -> None:
        """Call everybody before this process; be called by everybody after it."""
        own = self.descriptors[self.rank]
        for rank in range(self.rank):
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._peers[rank] = peer
            peer.settimeout(_PATIENCE_SECONDS)
            peer.connect(addresses[rank])
            socket.send_fds(peer, [self.rank.to_bytes(4, "little")], [own])
            _, self.descriptors[rank] = _receive(peer)
        while len(self._peers) < self.world_size - 1:
            peer, _ = listener.accept()
            peer.settimeout(_PATIENCE_SECONDS)
            _require_own_user(peer)
            rank, descriptor = _receive(peer)
            self._peers[rank], self.descriptors[rank] = peer, descriptor
            socket.send_fds(peer, [self.rank.to_bytes(4, "little")], [own])


def _hang_up(peers: dict[int, socket.socket], descriptors: list[int]) -> None:
    for peer in peers.values():
        peer.close()
    peers.clear()
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
    descriptors.clear()


def _receive(peer: socket.socket) -> tuple[int, int]:
    message, descriptors, _, _ = socket.recv_fds(peer, 4, 1)
    if not descriptors:
        raise ConnectionError("a process ended while it was connecting")
    return int.from_bytes(message, "little"), descriptors[0]


def _require_own_user(peer: socket.socket) -> None:
    """Names of abstract sockets are known to all users of the host."""
    if sys.platform == "linux":
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
            peer.close()
            raise PermissionError("somebody else has tried to connect")


def _host() -> tuple[str, ...]:
    """Identify the running system, and the part of it in which abstract names are known."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return boot.strip(), str(Path("/proc/self/ns/net").readlink())


def _everywhere(processes: Processes, work: Callable[[], _T]) -> _T:
    """Do something on every process; if it fails on one, raise alike on all."""
    result: list[_T] = []
    failure = None
    try:
        result.append(work())
    except (ArgumentError, OSError) as error:
        failure = str(error)
    failures = processes.gather(failure)
    for rank, text in enumerate(failures):
        if text is not None:
            raise ArgumentError(f"process {rank} of {processes.world_size} cannot share memory: {text}")
    return result[0]
