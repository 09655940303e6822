"""Which scripts `make bench` runs, in which order, and how long each may take."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "plan"]

DEFAULT_MINUTES = 10.0
LIMIT_FACTOR, LIMIT_EXTRA_MINUTES = 2.0, 5.0
"""A script that takes longer than this beside its estimate is ended."""
SMOKE_MINUTES = 1.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run of one script."""

    name: str
    """What to call it, and its page."""
    script: Path
    """The script."""
    arguments: tuple[str, ...] = ()
    """What it is told beside the options that all share."""
    minutes: float = DEFAULT_MINUTES
    """How long it takes at full size, on two quiet cores."""
    obstacle: str | None = None
    """Why it cannot run here; ``None`` if it can, or finds out by itself."""

    def limit_seconds(self, minutes: float) -> float:
        """Say when to give up.

        Args:
            minutes: What it is expected to take.

        Returns:
            Seconds.
        """
        return 60 * (LIMIT_FACTOR * minutes + LIMIT_EXTRA_MINUTES)


# From what a stranger asks first to what takes longest; scripts that are not listed come last.
_MINUTES = {
    "sync_cost": 12,
    "sync_scale": 5,
    "step_cost": 2,
    "minibatch_cost": 3,
    "shaped_network": 20,
    "rows_cost": 5,
    "model_speed": 3,
    "input_speed": 5,
    "pool_startup": 5,
    "cpu_settings": 10,
    "outer_optimizers": 8,
    "local_learning_rate": 10,
    "precision_accuracy": 20,
    "rows_throughput": 45,
    "rows_throughput-cuda": 10,
}


def plan(folder: Path, *, only: Sequence[str] | None, leave_out: Sequence[str]) -> list[Entry]:
    """List the runs.

    Args:
        folder: Where the scripts are; files that begin with an underscore are shared parts.
        only: Names of the runs that are wanted; ``None`` means all.
        leave_out: Names of those that are not.

    Returns:
        The runs, in order.

    Raises:
        ValueError: If a name is unknown.
    """
    scripts = {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    found = {
        name: Entry(name=name, script=path, minutes=_MINUTES.get(name, DEFAULT_MINUTES))
        for name, path in scripts.items()
    }
    if "rows_throughput" in found:
        found["rows_throughput-cuda"] = Entry(
            name="rows_throughput-cuda",
            script=scripts["rows_throughput"],
            arguments=("--device", "cuda"),
            minutes=_MINUTES["rows_throughput-cuda"],
            obstacle=None if _has_gpu() else "there is no CUDA device",
        )
    order = {name: place for place, name in enumerate(_MINUTES)}
    names = sorted(found, key=lambda name: order.get(name, len(order)))
    for name in [*(only or []), *leave_out]:
        if name not in found:
            raise ValueError(f"{name!r} is not a benchmark; there are {', '.join(names)}.")
    return [found[name] for name in names if (only is None or name in only) and name not in leave_out]


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    torch = importlib.import_module("torch")  # slow to import, and asked here alone
    return bool(torch.cuda.is_available())
