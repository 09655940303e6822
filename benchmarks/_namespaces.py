"""Hosts made of network namespaces, joined by veth pairs and a bridge, each with a rate.

The namespaces have no names: what keeps them alive is a file that this process has open, and the processes inside. Nothing
is ever made in the namespace that this process was started in. So nothing has to be cleaned up, and nothing is left over,
however the processes end: the kernel takes namespaces, bridge and veth pairs away with the last of them.
"""

import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FRAME_BYTES",
    "Host",
    "NetworkError",
    "can_build",
    "require_frame_bytes",
    "sent_bytes",
    "shaped_hosts",
]

FRAME_BYTES = 1500
"""What a frame of Ethernet carries; a jumbo frame carries 9,000."""
_INTERFACE = "eth0"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_ON_PARENT_DEATH = 1  # PR_SET_PDEATHSIG
_OWN = "/proc/thread-self/ns/net"
_BURST_SECONDS, _LEAST_BURST_BYTES = 0.002, 32 << 10
_QUEUE_SECONDS = 0.4
_LEAST_FRAME_BYTES, _MOST_FRAME_BYTES = 576, 32_000  # what every host has to take; what fits into the least burst


class NetworkError(RuntimeError):
    """A network of namespaces cannot be built here; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host; other processes may enter it as long as the one that made it lives."""

    path: str
    """Its network namespace, as a file."""
    address: str
    """Its address on the network."""

    def enter(self) -> None:
        """Move this process onto the host, for good; before it has other threads, or sockets.

        Gloo then listens on the host's address, and nowhere else. The process is killed when its parent ends.

        Raises:
            NetworkError: If the kernel refuses.
        """
        _call("prctl", _ON_PARENT_DEATH, signal.SIGKILL)
        namespace = os.open(self.path, os.O_RDONLY)
        try:
            _call("setns", namespace, _NEW_NETWORK)
        finally:
            os.close(namespace)
        os.environ["GLOO_SOCKET_IFNAME"] = _INTERFACE


def can_build() -> str | None:
    """Find out whether this process may build such networks, by building a small one.

    Returns:
        ``None`` if it may, else the reason why not, and what helps.
    """
    try:
        with shaped_hosts(2, bits_per_second=100e6):
            return None
    except NetworkError as error:
        return str(error)


def require_frame_bytes(frame_bytes: int) -> None:
    """Check the size of a frame.

    Args:
        frame_bytes: What it carries, headers of IP and TCP included, Ethernet's not (the MTU).

    Raises:
        ValueError: If it is out of range.
    """
    if not _LEAST_FRAME_BYTES <= frame_bytes <= _MOST_FRAME_BYTES:
        raise ValueError(
            f"frame_bytes={frame_bytes} must be in {_LEAST_FRAME_BYTES}..{_MOST_FRAME_BYTES}; Ethernet's frames carry "
            f"{FRAME_BYTES}, jumbo frames 9000."
        )


@contextmanager
def shaped_hosts(num_hosts: int, *, bits_per_second: float, frame_bytes: int = FRAME_BYTES) -> Iterator[list[Host]]:
    """Build hosts on one switch. What a host sends to others is held to the rate; what stays inside is not.

    Args:
        num_hosts: How many.
        bits_per_second: The rate, Ethernet's headers included.
        frame_bytes: What a frame between hosts carries, headers of IP and TCP included, Ethernet's not (the MTU).

    Yields:
        The hosts.

    Raises:
        NetworkError: If that cannot be done here.
        ValueError: If ``frame_bytes`` is out of range.
    """
    require_frame_bytes(frame_bytes)
    _require_means()
    with ExitStack() as stack:
        switch = stack.enter_context(_new_namespace())
        _run(switch, "ip link add name switch type bridge")
        _run(switch, "ip link set switch up")
        hosts = []
        for number in range(num_hosts):
            namespace = stack.enter_context(_new_namespace())
            host = Host(path=f"/proc/{os.getpid()}/fd/{namespace}", address=f"10.77.0.{number + 1}")
            _connect(host, switch=switch, namespace=namespace, number=number, frame_bytes=frame_bytes)
            _shape(namespace, bits_per_second)
            hosts.append(host)
        yield hosts


def sent_bytes() -> int:
    """Read how much the host that this process is on has sent to other hosts, headers included.

    Returns:
        The ``tx_bytes`` of its veth, counted by the kernel. (``/sys/class/net`` holds the same number, but shows the
        devices of the namespace in which it was mounted.)

    Raises:
        NetworkError: If this process is on no host.
    """
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == _INTERFACE:
            return int(counters.split()[8])
    raise NetworkError(f"this process is on no host: it has no {_INTERFACE}.")


def _require_means() -> None:
    if sys.platform != "linux":
        raise NetworkError(f"network namespaces are Linux's, and this is {sys.platform}.")
    if os.geteuid() != 0:
        raise NetworkError("network namespaces need root; run it with sudo, or in a container with --privileged.")
    missing = [name for name in ("ip", "tc") if _find(name) is None]
    if missing:
        raise NetworkError(f"{' and '.join(missing)} not found; install iproute2 (Debian: apt-get install iproute2).")


def _connect(host: Host, *, switch: int, namespace: int, number: int, frame_bytes: int) -> None:
    port = f"port{number}"
    _run(switch, f"ip link add {port} type veth peer name {_INTERFACE} netns {host.path}")
    _run(switch, f"ip link set {port} mtu {frame_bytes} master switch up")  # the bridge takes the least of its ports
    _run(namespace, "ip link set lo up")
    _run(namespace, f"ip link set {_INTERFACE} mtu {frame_bytes} addrgenmode none")  # no chatter of IPv6
    _run(namespace, f"ip address add {host.address}/24 dev {_INTERFACE}")
    _run(namespace, f"ip link set {_INTERFACE} up")


def _shape(namespace: int, bits_per_second: float) -> None:
    # A bucket too small starves where timers are coarse; one too large sends short messages at no rate at all.
    burst = max(_LEAST_BURST_BYTES, round(bits_per_second / 8 * _BURST_SECONDS))
    rate = f"rate {bits_per_second:.0f}bit burst {burst} latency {_QUEUE_SECONDS * 1000:.0f}ms"
    _run(namespace, f"tc qdisc add dev {_INTERFACE} root tbf {rate}")


@contextmanager
def _new_namespace() -> Iterator[int]:
    """Make a network namespace, and give a file that keeps it alive."""
    with _returning():
        _call("unshare", _NEW_NETWORK)
        namespace = os.open(_OWN, os.O_RDONLY)
    try:
        yield namespace
    finally:
        os.close(namespace)


@contextmanager
def _returning() -> Iterator[None]:
    """Take this thread back to the namespace in which it was."""
    own = os.open(_OWN, os.O_RDONLY)
    try:
        yield
    finally:
        _call("setns", own, _NEW_NETWORK)
        os.close(own)


def _run(namespace: int, command: str) -> None:
    program, *arguments = command.split()
    with _returning():
        _call("setns", namespace, _NEW_NETWORK)
        answer = subprocess.run([_find(program) or program, *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise NetworkError(f"`{command}` failed, so this kernel may lack a part: {answer.stderr.strip()}")


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library: Python has setns and unshare from 3.12 on, and prctl never."""
    if getattr(_c_library(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise NetworkError(
            f"{name} was refused: {os.strerror(number)}. It needs root, in a container --privileged too."
        )


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
