"""The networks of shaped_network: which are measured, and what they are called."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from _namespaces import FRAME_BYTES

__all__ = ["DEFAULT_NETWORKS", "SMOKE_NETWORKS", "Network", "choose_networks"]

JUMBO_FRAME_BYTES = 9000


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network."""

    megabits: float
    """Rate between hosts, in Mbit/s."""
    workers: int
    """Processes on each host."""
    frame_bytes: int = FRAME_BYTES
    """What a frame carries at most."""
    hosts: int = 2
    """Hosts there are."""
    has_control: bool = False
    """Whether DDP runs a second time under another name."""

    @property
    def num_processes(self) -> int:
        """Processes on all hosts."""
        return self.hosts * self.workers

    @property
    def is_plain(self) -> bool:
        """Whether its frames are Ethernet's: all contestants run, and all goals are judged."""
        return self.frame_bytes == FRAME_BYTES

    @property
    def title(self) -> str:
        """What it is called in headings and goals."""
        frames = "" if self.is_plain else f", frames of {self.frame_bytes:,} bytes"
        return f"{self.megabits:g} Mbit/s, {self.hosts} hosts x {self.workers}{frames}"

    @property
    def label(self) -> str:
        """What it is called in names of files."""
        frames = "" if self.is_plain else f"-{self.frame_bytes}"
        return f"{self.megabits:g}-{self.hosts}x{self.workers}{frames}"


DEFAULT_NETWORKS = (
    Network(megabits=100, workers=2),
    Network(megabits=100, workers=1, has_control=True),
    Network(megabits=100, workers=1, frame_bytes=JUMBO_FRAME_BYTES),
    Network(megabits=1000, workers=2),
    Network(megabits=1000, workers=1),
)
SMOKE_NETWORKS = (Network(megabits=1000, workers=2, has_control=True),)


def choose_networks(
    rates: Sequence[float] | None,
    workers: Sequence[int] | None,
    frames: Sequence[int] | None,
    *,
    default: Sequence[Network],
) -> list[Network]:
    """List the networks that are wanted.

    Args:
        rates: Mbit/s between hosts; ``None`` if nothing was said, like the next two.
        workers: Processes a host.
        frames: Bytes of a frame.
        default: What is measured if nothing was said at all.

    Returns:
        Each rate with each number of processes and each size of a frame, the first of them with a control. Where nothing was
        said: 100 and 1000 Mbit/s, two processes and one, Ethernet's frames.
    """
    if rates is None and workers is None and frames is None:
        return list(default)
    product = itertools.product(rates or (100, 1000), workers or (2, 1), frames or (FRAME_BYTES,))
    return [
        Network(megabits=rate, workers=count, frame_bytes=size, has_control=place == 0)
        for place, (rate, count, size) in enumerate(product)
    ]
