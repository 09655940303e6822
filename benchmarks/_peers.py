"""Runs packages that we are measured beside, each in processes of its own, one round at a time, interleaved with ours."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from _environments import PeerError, pin_of, python_of, variables
from _orders import ROUND, TELL

from localsgd.lab.cores import usable_cores

__all__ = ["NAIVE", "PEERS", "Peer", "Remote", "started"]

_START_SECONDS = 300
_ROUND_SECONDS = 110
"""Less than what the processes that wait meanwhile put up with."""
_LONGEST_REASON = 160
_ORDERS, _LOG = "orders", "log"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Something that trains many workers on one device."""

    title: str
    """How tables call it."""
    module: str
    """Part of the benchmarks whose ``main`` sets it up and follows orders."""
    environment: str | None = None
    """Name of its environment; ``None`` for the project's own."""
    num_threads: int = 1
    """Threads of each of its processes."""
    note: str
    """What it does otherwise than ours."""

    def version(self) -> str:
        """Say what is run, for the report."""
        return "plain torch" if self.environment is None else pin_of(self.environment)


NAIVE = Peer(
    title="naive loop",
    module="_peer_naive",
    num_threads=usable_cores(),
    note="K models and K optimizers in one process with a thread for each core; SGD as torch makes it; parameters averaged "
    "by a loop over them, BatchNorm's statistics left alone",
)
"""What one writes first."""
PEERS: Mapping[str, Peer] = {
    "flwr": Peer(
        title="Flower",
        module="_peer_flwr",
        environment="flwr",
        note="simulation engine on Ray, a process of one thread for each core, rows as clients, `FedAvg`; a client begins "
        "every round with new momentum; model, samples and memory format are ours and stay with the process; all of the "
        "state is averaged as NumPy arrays; the server looks for answers every 0.1 s",
    ),
    "exogym": Peer(
        title="EXO Gym",
        module="_peer_exogym",
        environment="exogym",
        note="a process of one thread for each row, all at once on the cores, joined by Gloo, `FedAvgStrategy`; model, "
        "samples and memory format are ours; parameters averaged one by one; a barrier and a log line after every step",
    ),
}
"""Packages by the names of their environments."""


class Remote:
    """Lets a peer run rounds; a contestant of `_timing.interleave`. A peer that fails is left alone from then on.

    Attributes:
        failure: Why it stopped; ``None`` while it runs.
    """

    def __init__(self, path: str) -> None:
        """Connect.

        Args:
            path: Where it listens.
        """
        self.failure: str | None = None
        self._log = Path(path).with_name(_LOG)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ROUND_SECONDS)
        self._socket.connect(path)
        self._file = self._socket.makefile("r")

    def __call__(self) -> None:
        """Run one round."""
        self.begin()
        self.end()

    def begin(self) -> None:
        """Order a round."""
        self._order(ROUND)

    def end(self) -> None:
        """Wait for the end of the round that was ordered."""
        self._answer()

    def tell(self) -> float:
        """Ask for the number that it has to tell; not a number if it has failed."""
        self._order(TELL)
        return float(self._answer() or "nan")

    def close(self) -> None:
        """Measure no more; the peer then ends by itself."""
        self._file.close()
        self._socket.close()

    def _order(self, order: bytes) -> None:
        if self.failure is None:
            try:
                self._socket.sendall(order)
            except OSError as error:
                self.failure = self._why(error)

    def _answer(self) -> str:
        if self.failure is not None:
            return ""
        try:
            answer = self._file.readline()
        except OSError as error:
            self.failure = self._why(error)
            return ""
        if not answer:
            self.failure = f"it ended in a round: {_last_line(self._log)}"
        return answer

    def _why(self, error: OSError) -> str:
        return f"no answer within {_ROUND_SECONDS} s" if isinstance(error, TimeoutError) else str(error)


@contextmanager
def started(peer: Peer, texts: Sequence[str], *, may_install: bool = True) -> Iterator[list[str]]:
    """Start processes of a peer at once, wait until all are ready, and end them and all that they started afterwards.

    Args:
        peer: Which.
        texts: What each process is told to train, in its own words.
        may_install: Whether an environment that is missing is made.

    Yields:
        Where to reach each.

    Raises:
        PeerError: If it cannot be installed or does not start.
    """
    python = _python(peer, may_install=may_install)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True)))
        processes = []
        for number, text in enumerate(texts):
            own = folder / str(number)
            own.mkdir()
            processes.append((stack.enter_context(_running(peer, text, python=python, folder=own)), own))
        yield [_wait(process, own) for process, own in processes]


def _python(peer: Peer, *, may_install: bool) -> Path:
    if peer.environment is None:
        return Path(sys.executable)
    try:
        return python_of(peer.environment, may_install=may_install)
    except PeerError as error:
        raise PeerError(f"not installed: {error}") from error


@contextmanager
def _running(peer: Peer, text: str, *, python: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    code = f"import sys, {peer.module}; {peer.module}.main(sys.argv[1], sys.argv[2])"
    command = [str(python), "-c", code, str(folder / _ORDERS), text]
    threads = str(peer.num_threads)
    own = variables(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    with (folder / _LOG).open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, env=own, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> str:
    path = folder / _ORDERS
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        if process.poll() is not None:
            raise PeerError(f"not run: {_last_line(folder / _LOG)}")
        if time.monotonic() > deadline:
            raise PeerError(f"not run: not ready within {_START_SECONDS} s")
        time.sleep(0.05)
    return str(path)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give it time to leave in order, as it does when nobody measures any more; then end its whole session."""
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # its session began with it, so the group has its number
    except ProcessLookupError:
        return


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    reason = (lines or ["it ended without a word"])[-1].replace("|", "/")
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
