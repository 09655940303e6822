"""Times, weighs and counts syncs of several contestants, inside each of the processes that average. Needs torch alone."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from _bare_models import Shape, num_elements
from _memory import can_measure, peak_growth_bytes
from _timing import interleave
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "FLOOR",
    "Contestant",
    "Settings",
    "Spent",
    "count_collectives",
    "measure",
    "merge",
    "raw_all_reduce",
    "verify",
]

FLOOR = "raw all_reduce"
MEMORY_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure."""

    num_warmups: int
    """Repetitions thrown away."""
    num_repeats: int
    """Repetitions that count."""
    num_calls: int = 1
    """Syncs back to back in a repetition."""
    pause_seconds: float = 0.0
    """How long a process computes between the barrier and the sync."""
    seed: int = 0
    """Seed of the orders of contestants."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way of averaging, with parameters of its own."""

    tensors: Callable[[], Sequence[Tensor]]
    """Lists the tensors that are averaged; some contestants rebind them at every sync."""
    sync: Callable[[], object]
    """Averages them over all processes."""
    results: Callable[[], Sequence[Tensor]] | None = None
    """Lists the tensors in which the mean is found; ``None`` where it replaces what was averaged."""
    forms_mean: bool = True
    """Whether the result is the mean; the floor leaves the sum."""
    own_seconds: list[float] = field(default_factory=list)
    """For each sync the seconds that were not spent inside collectives, where the contestant tells."""
    close: Callable[[], object] | None = None
    """Gives back what it holds besides memory; every process calls it."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What syncs took in all processes together, by contestant."""

    seconds: dict[str, list[float]]
    """Seconds a sync in the slowest process, one number a repetition."""
    extra_bytes: dict[str, float]
    """Rise of resident memory during a sync, the median over processes and repetitions; empty where it cannot be told."""
    collectives: dict[str, int]
    """Collectives that one process enters in a sync."""
    own_seconds: dict[str, float]
    """Median seconds of a sync outside collectives, of those who tell."""


def raw_all_reduce(shapes: Sequence[Shape]) -> Contestant:
    """Make the floor: one collective over one vector of as many bytes as the parameters, and nothing else.

    Args:
        shapes: Shapes of the parameters.

    Returns:
        The contestant.
    """
    vector = torch.full((num_elements(shapes),), 0.0)
    return Contestant(tensors=lambda: [vector], sync=lambda: dist.all_reduce(vector), forms_mean=False)


def measure(contestants: Mapping[str, Contestant], settings: Settings) -> dict[str, Any]:
    """Verify all contestants, count what they enter, time them in turn, and look at their memory.

    Args:
        contestants: The contestants by name. Every process calls this with the same ones, in the same order.
        settings: How to measure.

    Returns:
        What `merge` puts together, as numbers, lists and dictionaries.
    """
    collectives = {}
    for name, contestant in contestants.items():
        verify(name, contestant)
        contestant.sync()  # in its second backward pass DDP tells everybody the order of its buckets
        collectives[name] = count_collectives(contestant.sync)
    seconds = interleave(
        {name: _repeated(contestant.sync, settings.num_calls) for name, contestant in contestants.items()},
        num_warmups=settings.num_warmups,
        num_repeats=settings.num_repeats,
        seed=settings.seed,
        before=lambda: _wait_for_everyone(settings.pause_seconds),
    )
    num_timed = settings.num_repeats * settings.num_calls
    own = {name: contestant.own_seconds[-num_timed:] for name, contestant in contestants.items()}
    growth: dict[str, list[int]] = {name: [] for name in contestants if can_measure()}
    for _ in range(min(MEMORY_REPEATS, settings.num_repeats)):
        for name, found in growth.items():
            dist.barrier()
            found.append(peak_growth_bytes(contestants[name].sync))
    for contestant in contestants.values():
        dist.barrier()
        if contestant.close is not None:
            contestant.close()
    per_call = {name: [block / settings.num_calls for block in found] for name, found in seconds.items()}
    return {"seconds": per_call, "own_seconds": own, "growth": growth, "collectives": collectives}


def merge(by_process: Sequence[Mapping[str, Any]]) -> Spent:
    """Put together what the processes measured.

    Args:
        by_process: What `measure` returned in each.

    Returns:
        The same by contestant; a sync takes as long as in its slowest process.
    """
    first = by_process[0]
    return Spent(
        seconds={
            name: [max(repeat) for repeat in zip(*(own["seconds"][name] for own in by_process), strict=True)]
            for name in first["seconds"]
        },
        extra_bytes={
            name: statistics.median(x for own in by_process for x in own["growth"][name]) for name in first["growth"]
        },
        collectives=dict(first["collectives"]),
        own_seconds={
            name: statistics.median(x for own in by_process for x in own["own_seconds"][name])
            for name, told in first["own_seconds"].items()
            if told
        },
    )


def verify(name: str, contestant: Contestant) -> None:
    """Sync once from values that differ, and insist on the mean: who does not average wins nothing.

    Args:
        name: Name of the contestant, for the message.
        contestant: The contestant. Every process must call this.

    Raises:
        RuntimeError: If it did not form the mean everywhere.
    """
    ranks = range(dist.get_world_size())
    expected = sum(ranks) / (len(ranks) if contestant.forms_mean else 1)
    results = contestant.results or contestant.tensors
    with torch.no_grad():
        for tensor in contestant.tensors():
            tensor.fill_(dist.get_rank())
    contestant.sync()
    right = all(bool((tensor == expected).all()) for tensor in results())
    with torch.no_grad():
        for tensor in contestant.tensors():
            tensor.zero_()  # a sum that is summed again and again must not overflow
    if not right:
        raise RuntimeError(f"{name} did not replace the parameters by {expected} on process {dist.get_rank()}")


def count_collectives(sync: Callable[[], object]) -> int:
    """Count the collectives of torch.distributed that this process enters, whoever calls them: Python or C++.

    Args:
        sync: What enters them. Every process must call this.

    Returns:
        How many.
    """
    with _Collectives() as entered:
        sync()
    return sum(entered.counts.values())


class _Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotation for it
    """Counts the operators by which torch.distributed hands collectives to a backend."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: PLR0917  # torch's own signature
        if func.namespace == "c10d":
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def _wait_for_everyone(pause_seconds: float) -> None:
    dist.barrier()
    start = time.perf_counter()
    while time.perf_counter() - start < pause_seconds:
        pass


def _repeated(work: Callable[[], object], num_calls: int) -> Callable[[], None]:
    def block() -> None:
        for _ in range(num_calls):
            work()

    return block
