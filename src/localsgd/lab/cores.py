"""How many cores this process may use."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(system: Path = Path("/")) -> int:
    """Count the cores that this process may use.

    Args:
        system: Where the root of the file system lies.

    Returns:
        Those it may run on, or as many as its quota of time amounts to, rounded up; at least 1. A quota is what Linux grants
        to a container, a service or a batch job, or to a group around it.
    """
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups(system):
        # A number is missing where there is no quota, and so may be the file.
        with contextlib.suppress(OSError, ValueError):
            granted, period = map(int, _read_quota(group))
            if granted > 0 and period > 0:
                num_cores = min(num_cores, -(-granted // period))
    return max(1, num_cores)


def _control_groups(system: Path) -> Iterator[Path]:
    """List the groups that this process belongs to, each after those around it; some may not be there."""
    root = system / "sys/fs/cgroup"
    yield root  # all that is to be seen from inside a container
    with contextlib.suppress(OSError, ValueError):
        for line in (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", maxsplit=2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = root / controllers  # of the first version; the second one has a single tree, without a name
            yield group
            for part in Path(name).parts[1:]:
                group /= part
                yield group


def _read_quota(group: Path) -> list[str]:
    """Read how much time a group gets, and in how much: microseconds; not a number, or a negative one, if all it wants."""
    with contextlib.suppress(FileNotFoundError):
        return (group / "cpu.max").read_text(encoding="ascii").split()
    return [(group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")]
