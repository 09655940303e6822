"""Starts the processes of a command on this machine, as torchrun would, and sees to it that none outlives it."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Any, Self, final

import torch
import torch.distributed as dist
import typer
from rich.console import Console
from torch.multiprocessing.spawn import start_processes

from localsgd.cli.ending import excuse
from localsgd.cli.interruption import WATCHED, Interruption
from localsgd.cli.launch import POOL_MARK

__all__ = ["Pool"]

_SECONDS_BETWEEN_LOOKS = 0.1
_PATIENCE_SECONDS = 8.0
"""How long the others may go on when one has failed; they need `localsgd.cli.ending` for a message at most."""
_PATIENCE_SECONDS_WHEN_ASKED_TWICE = 3.0


@dataclass(frozen=True, kw_only=True)
class _Orders:
    """What a process of the pool has to know."""

    arguments: tuple[str, ...]
    """Those of the command."""

    num_threads: int
    """Threads that it computes with."""

    environment: dict[str, str]
    """What torchrun would tell all processes alike."""


@final
class Pool:
    """Processes on this machine that run one command together, each with its share of the workers.

    Ctrl-C and SIGTERM reach them from here, and only from here: they have sessions of their own. They end when this process
    is gone, however that came about.

    Attributes:
        killed: Number of the process that died before any other failed, and the name of the signal that killed it; ``None``
            if none did.
    """

    def __init__(self, arguments: Sequence[str], *, num_processes: int, num_threads: int) -> None:
        """Start nothing yet.

        Args:
            arguments: The command, as it is typed after the program's name; it must say where to write.
            num_processes: How many processes.
            num_threads: How many threads each.
        """
        self._arguments, self._num_threads = tuple(arguments), num_threads
        self._num_processes = num_processes
        self.killed: tuple[int, str] | None = None

    def run(self) -> int:
        """Start the processes, and wait until all have ended.

        Returns:
            The exit status of the command: that of process 0, if it has one and did not succeed; else that of another.
        """
        with _serving_store() as (store, port), _Heard() as heard:
            orders = _Orders(
                arguments=self._arguments,
                num_threads=self._num_threads,
                environment=_environment(port, self._num_processes),
            )
            with _started(orders, self._num_processes) as processes:
                statuses = self._watch(processes, heard, store)
        failed = [status for status in statuses if status > 0]
        if self.killed is not None or not any(statuses):
            return 0 if self.killed is None else 1
        return failed[0] if failed else heard.exit_status

    def _watch(self, processes: Sequence[Any], heard: "_Heard", store: Any) -> list[int]:
        """Pass signals on until all processes have ended; give their exit codes, negative for a signal."""
        num_passed, deadline = 0, float("inf")
        running = dict(enumerate(processes))
        while running:
            multiprocessing.connection.wait(
                [process.sentinel for process in running.values()], timeout=_SECONDS_BETWEEN_LOOKS
            )
            for rank in [rank for rank, process in running.items() if process.exitcode is not None]:
                code = running.pop(rank).exitcode
                is_first = code < 0 and deadline == float("inf") and heard.count < 2
                if is_first:
                    self.killed = rank, signal.Signals(-code).name
                excuse(store, rank, is_explained=is_first)
                if code != 0:
                    deadline = min(deadline, time.monotonic() + _PATIENCE_SECONDS)
            if heard.count > num_passed == 0 and any(_is_starting(process.pid) for process in running.values()):
                print("interrupted", file=sys.stderr, flush=True)  # nothing was begun, so there is nothing to wait for
                deadline = 0.0
            else:
                for number in heard.numbers[num_passed:]:
                    for process in running.values():
                        os.kill(process.pid, number)
            num_passed = len(heard.numbers)
            if heard.count >= 2:
                deadline = min(deadline, time.monotonic() + _PATIENCE_SECONDS_WHEN_ASKED_TWICE)
            if time.monotonic() > deadline:
                _kill(running.values())
        return [process.exitcode for process in processes]


@final
class _Heard:
    """A context in which SIGINT and SIGTERM are noted, and nothing else.

    Attributes:
        numbers: Those that have come.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @property
    def count(self) -> int:
        """How many have come."""
        return len(self.numbers)

    @property
    def exit_status(self) -> int:
        """What a program interrupted like this exits with; 1 if it was not."""
        return 128 + self.numbers[0] if self.numbers else 1

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.numbers.append(number)


@contextlib.contextmanager
def _serving_store() -> Iterator[tuple[Any, int]]:
    """Keep the store in which the processes find each other: on the loopback, at a port that the system chooses."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    yield (
        dist.TCPStore(  # type: ignore[attr-defined]  # it is there
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        ),
        port,
    )


@contextlib.contextmanager
def _started(orders: _Orders, num_processes: int) -> Iterator[Sequence[Any]]:
    """Start the processes; whatever happens, none is left at the end."""
    # Until a process is ready to answer signals, they wait. It inherits that, as it does the number of threads, which has
    # to be known before torch is imported.
    threads = os.environ.get("OMP_NUM_THREADS")
    resource_tracker.ensure_running()  # when it starts on demand, it lets signals through again behind our back
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    os.environ["OMP_NUM_THREADS"] = str(orders.num_threads)
    try:
        context = start_processes(_serve, (orders,), nprocs=num_processes, join=False)  # type: ignore[no-untyped-call]  # torch has no annotation for it
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield context.processes
    finally:
        _kill(context.processes)


def _kill(processes: Any) -> None:
    left = [process for process in processes if process.exitcode is None]
    for process in left:
        process.kill()
    for process in left:
        process.join()
    if left:
        Console(stderr=True).show_cursor()  # a bar that was killed has hidden it


def _environment(port: int, num_processes: int) -> dict[str, str]:
    names = [name for _, name in socket.if_nameindex()]
    loopback = next((name for name in ("lo", "lo0") if name in names), None)
    return {
        POOL_MARK: "1",
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": str(True),
        "TORCHELASTIC_RESTART_COUNT": "0",
        **({} if loopback is None else {"GLOO_SOCKET_IFNAME": loopback}),
    }


def _serve(rank: int, orders: _Orders) -> None:
    """Be one of the processes."""
    # A signal that comes once more, when this process is already ending, changes nothing. (To ignore signals by the system's
    # means would throw away those that wait.)
    for number in WATCHED:
        signal.signal(number, _let_pass)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(orders.environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(orders.num_threads)
    from localsgd.cli.app import run  # noqa: PLC0415 -- it imports the commands, and they this module

    status = 1
    os.setsid()  # which tells that this process is ready
    try:
        with Interruption(is_heard=rank == 0):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            status = run(orders.arguments)
    except typer.Exit as stopped:
        status = stopped.exit_code
    except KeyboardInterrupt:  # asked to end while it was leaving the command
        status = 128 + signal.SIGINT
    except Exception:  # noqa: BLE001 -- a bug: what torch would keep in a file is for everybody to see
        traceback.print_exc()
    sys.exit(status)


def _is_starting(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid) != pid
    return False


def _let_pass(number: int, frame: FrameType | None) -> None:
    """Do nothing about a signal."""


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
