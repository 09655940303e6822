"""The table of rows_throughput about all cores: our pool of processes, its floor, a naive loop and the peers, in turn."""

import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from _environments import PeerError
from _fleets import Setting, bare_floor, engine_round
from _peers import Peer, Remote, started
from _processes import run_in_processes
from _report import Report, ratio_text, seconds_text
from _timing import interleave, ratios, spread

from localsgd import ArgumentError
from localsgd.communicators import Communicator, Processes, SharedMemory
from localsgd.lab.cores import usable_cores
from localsgd.lab.engine.allocator import keep_freed_memory

__all__ = ["Job", "measure_pool", "report_pool"]

POOL_LIMIT = 1.05
FLOOR, OURS = "floor", "localsgd"
NUM_WARMUPS = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the processes measure."""

    setting: Setting
    """What is trained."""
    paths: dict[str, str]
    """Where peers listen, by title."""
    num_repeats: int
    """Rounds that count."""
    seed: int
    """Seed of the orders."""


def report_pool(
    report: Report,
    settings: Sequence[tuple[Setting, Sequence[Peer]]],
    *,
    num_repeats: int,
    seed: int,
    is_smoke: bool,
) -> None:
    """Compare the pool with its floor, and with others.

    Args:
        report: Where to write.
        settings: What is trained, and who else trains it.
        num_repeats: Rounds of each contestant that count.
        seed: Seed of the orders.
        is_smoke: Whether to stay silent, and to leave out peers whose environments are missing instead of making these.
    """
    num_cores = usable_cores()
    report.add_heading(f"All cores: {num_cores}")
    others = list({peer.title: peer for _, peers in settings for peer in peers}.values())
    _explain(report, others)
    goals = []
    for setting, peers in settings:
        what = f"{setting.model}, K={setting.workers}, B={setting.batch_size}, H={setting.period}, {setting.precision}"
        if setting.workers % num_cores:
            report.add_text(f"K={setting.workers} cannot be dealt out evenly to {num_cores} cores: not measured.")
            continue
        if not is_smoke:
            names = "".join(f", {peer.title}" for peer in peers)
            print(f"{what}: {num_repeats} rounds of {FLOOR}, {OURS}{names}", file=sys.stderr, flush=True)
        with ExitStack() as stack:
            paths, missing = _start(stack, peers, setting, may_install=not is_smoke)
            job = Job(setting=setting, paths=paths, num_repeats=num_repeats, seed=seed)
            seconds = _measure(job, missing, num_cores=num_cores)
        report.add_text(f"**{what}**: {num_repeats} rounds each")
        report.add_table(
            ["contestant", "a round", "min..max", "samples/s", "over floor", "quartiles", "95% of median"],
            [_row(name, times, setting=setting, floor=seconds[FLOOR]) for name, times in seconds.items()],
        )
        for title, reason in missing.items():
            report.add_text(f"{title} is not in the table: {reason}")
        goals.append((what, ratios(seconds[OURS], seconds[FLOOR])))
        for title in (peer.title for peer in peers):
            ratio = ratios(seconds[title], seconds[FLOOR]) if title in seconds else None
            report.add_headline(_question(what), title, FLOOR, ratio=ratio, note=missing.get(title, ""))
    for what, ratio in goals:
        value = f"{ratio.median:.3f} (95%: {ratio_text(*ratio.median_interval)})"
        limit, met = f"at most {POOL_LIMIT}", ratio.median <= POOL_LIMIT
        report.add_goal(f"{what}: time over the floor", value, limit=limit, met=met)
        report.add_headline(_question(what), OURS, FLOOR, ratio=ratio, goal=limit, met=met)


def measure_pool(job: Job) -> dict[str, Any]:
    """Let everyone run rounds in turn; run by every process. Peers get their orders from the first one; the others wait.

    Args:
        job: What to measure.

    Returns:
        Seconds a round by contestant, and why peers failed meanwhile.
    """
    keep_freed_memory()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    remotes = {title: Remote(path) for title, path in job.paths.items()} if rank == 0 else {}
    blocks: dict[str, Callable[[], object]] = {
        FLOOR: bare_floor(job.setting, rank=rank, world_size=world_size),
        OURS: engine_round(job.setting, "plain", _as_in_the_pool()),
    }
    blocks |= {title: remotes.get(title, _rest) for title in job.paths}
    seconds = interleave(blocks, num_warmups=NUM_WARMUPS, num_repeats=job.num_repeats, seed=job.seed, before=_together)
    for remote in remotes.values():
        remote.close()
    return {"seconds": seconds, "failures": {title: remote.failure or "" for title, remote in remotes.items()}}


def _start(
    stack: ExitStack, peers: Sequence[Peer], setting: Setting, *, may_install: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Start the peers, each with the same network, samples and weights; say where each is, or why not, by title."""
    paths, missing = {}, {}
    for peer in peers:
        try:
            (paths[peer.title],) = stack.enter_context(started(peer, [setting.write()], may_install=may_install))
        except PeerError as error:
            missing[peer.title] = str(error)
    return paths, missing


def _measure(job: Job, missing: dict[str, str], *, num_cores: int) -> dict[str, list[float]]:
    """Give seconds a round: those of the slowest process, or for a peer those until it says that it is done."""
    found = run_in_processes(measure_pool, num_cores, job, timeout_seconds=1800)
    missing |= {title: f"failed: {reason}" for title, reason in found[0]["failures"].items() if reason}
    seconds = {
        name: [max(times) for times in zip(*(one["seconds"][name] for one in found), strict=True)]
        for name in (FLOOR, OURS)
    }
    return seconds | {title: found[0]["seconds"][title] for title in job.paths if title not in missing}


def _as_in_the_pool() -> Communicator:
    """Make what processes of `localsgd train` average through on one host."""
    processes = Processes()
    try:
        return SharedMemory(processes)
    except ArgumentError:  # raised on every process alike
        return processes


def _question(what: str) -> str:
    return f"time of a round on all cores, {what}"


def _together() -> None:
    dist.barrier()


def _rest() -> None:
    """Leave the cores to the peer; the barrier before the next block waits for it."""


def _row(name: str, times: Sequence[float], *, setting: Setting, floor: Sequence[float]) -> list[str]:
    time, ratio = spread(times), ratios(times, floor)
    samples = setting.workers * setting.batch_size * setting.period
    return [
        name,
        seconds_text(time.median),
        f"{seconds_text(time.lowest)}..{seconds_text(time.highest)}",
        f"{samples / statistics.median(times):.0f}",
        f"{ratio.median:.3f}",
        ratio_text(ratio.lower_quartile, ratio.upper_quartile),
        ratio_text(*ratio.median_interval),
    ]


def _explain(report: Report, peers: Sequence[Peer]) -> None:
    lines = [
        f"- {FLOOR}: a process of one thread for each core; rows swapped through one flat vector; no mean over processes",
        f"- {OURS}: the processes of `localsgd train`, its engine and its exchange through shared memory",
        *(f"- {peer.title} ({peer.version()}): {peer.note}" for peer in peers),
    ]
    text = (
        "Everybody trains the same network, in the same memory format, on the same batches. Only rounds are timed: all"
    )
    text += (
        " are set up before, and wait while others have the cores, some with up to 2% of them for looking around. The"
    )
    text += " first two also tune the allocator, as `localsgd train` does."
    report.add_text(f"{text}\n\n" + "\n".join(lines))
