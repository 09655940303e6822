"""The tables and goals of shaped_network, from what its processes measured."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _pictures import Step, draw_steps
from _report import Report, bytes_text, ratio_text, seconds_text
from _timing import Spread, ratios, spread
from _wire_contestants import (
    ALONE,
    BESIDE,
    BFLOAT16,
    CONTROL,
    DDP,
    EVERY_8,
    EVERY_32,
    FLAT_SUM,
    FLOOR_SUM,
    HOSTS_SUM,
    INTERLEAVED_SUM,
    OVERLAPPED,
    refused_ways,
    training_ways,
)
from _wire_network import Network

__all__ = ["RAW", "Found", "Hiding", "draw_training", "present_hiding", "present_sums", "present_training"]

Found = dict[str, Any]
RAW = "raw all_reduce"
NUM_EPOCH_SAMPLES = 50_000
SLOW_MEGABITS = 100
THROUGHPUT_LIMITS = {EVERY_8: 3.9, EVERY_32: 5.6, BFLOAT16: 4.9}
GOAL_STEP_SECONDS = 0.0168
"""What a step computed for on the machine on which these were set."""
SHARES_OF_T = {EVERY_8: 1 / 8, EVERY_32: 1 / 32, BFLOAT16: 1 / 16}
"""What a sync adds to a step, by bytes sent and steps between."""
PREDICTION_LIMIT = 0.05
HIDDEN_LIMIT = 0.60
LEAST_EXPOSED = 0.05
"""What blocking syncs must add to a step, as a share of its computation, to ask how much of that can be hidden."""
FLOOR_LIMIT = 1.10


@dataclass(frozen=True, kw_only=True)
class Hiding:
    """What can be hidden of the wait in one network, and what it costs."""

    network: Network
    """Where."""
    raw_seconds: float
    """One raw sum."""
    lost_seconds: float
    """What a step of computation alone loses to a raw sum beside it."""
    activity: Mapping[str, tuple[float, float]]
    """Context switches and interrupts a step, of computation alone and of that."""
    possible: float
    """Share of the wait that a raw sum beside the steps hides."""
    hidden: float
    """Share that an overlapped sync hides."""


def present_training(report: Report, found: Sequence[Found], *, network: Network, num_samples: int) -> list[Hiding]:
    """Show what training took on one network.

    Args:
        report: Where to.
        found: What each process measured.
        network: Where.
        num_samples: Samples in a step of all workers.

    Returns:
        What can be hidden, if steps wait long enough to tell.
    """
    ways, title = training_ways(network), network.title
    slowest = {name: _slowest([own["seconds"][name] for own in found]) for name in ways}
    raw = _raw_seconds(found, len(slowest[ALONE]))
    expected = {
        name: [alone + total / way.period for alone, total in zip(slowest[ALONE], raw, strict=True)]
        for name, way in ways.items()
        if way.is_predicted and way.period
    }
    activity = {name: _activity(found[0]["activity"][name]) for name in ways}
    hidden = _hidden(slowest, OVERLAPPED)
    _add_table(report, found[0]["counted"], slowest, expected=expected, activity=activity, num_samples=num_samples)
    total, ceiling = statistics.median(raw), ratios(slowest[DDP], slowest[ALONE]).median
    report.add_text(
        f"T, one {RAW} of parameters and statistics: {seconds_text(total)}. With steps as slow as here, "
        f"nobody can come above the {ceiling:.2f}x of those who only compute; faster processors have more to gain."
    )
    if network.is_plain and refused_ways():
        report.add_text(f"Left out, since this localsgd refuses them: {'; '.join(refused_ways())}.")
    if network.is_plain and network.megabits == SLOW_MEGABITS:
        _judge_throughput(report, slowest, title, total=total)
    for name, seconds in expected.items():
        error = ratios(slowest[name], seconds).median - 1
        report.add_goal(
            f"{name} beyond compute + T / H, {title}",
            f"{error:+.1%}",
            limit=f"within {PREDICTION_LIMIT:.0%}",
            met=abs(error) <= PREDICTION_LIMIT,
        )
    possible = _hidden(slowest, BESIDE)
    if hidden is None or possible is None:
        report.add_text(
            f"{EVERY_8} waits too little, beside what a step computes, to judge how much {OVERLAPPED} hides."
        )
        return []
    hiding = Hiding(
        network=network,
        raw_seconds=total,
        lost_seconds=_median_difference(slowest[BESIDE], slowest[ALONE]),
        activity={name: activity[name] for name in (ALONE, BESIDE)},
        possible=possible.median,
        hidden=hidden.median,
    )
    _judge_overlap(report, hidden, hiding)
    return [hiding]


def draw_training(report: Report, found: Sequence[Found], network: Network, *, page: Path) -> None:
    """Draw what a step took beside the page: a bar for each contestant that learns, fastest last.

    Args:
        report: Where to show the picture.
        found: What each process measured.
        network: Where.
        page: The report's file.
    """
    spreads = {
        name: spread(_slowest([own["seconds"][name] for own in found]))
        for name in training_ways(network)
        if name not in (CONTROL, BESIDE)
    }
    steps = [
        Step(name=name, seconds=one.median, low=one.lower_quartile, high=one.upper_quartile)
        for name, one in sorted(spreads.items(), key=lambda item: -item[1].median)
    ]
    path = page.with_name(f"{page.stem}-{network.label}.svg")
    title = f"Time of a step of every worker, {network.title}"
    draw_steps(path, steps, computing=spreads[ALONE].median, title=title)
    report.add_picture(path.name, title)


def present_hiding(report: Report, hiding: Sequence[Hiding]) -> None:
    """Hold what overlap hides in one network against the others, where there are several.

    Args:
        report: Where to.
        hiding: What each network showed.
    """
    if len(hiding) < 2:
        return
    report.add_heading("What overlap can hide, by network")
    header = ["network", f"T, {RAW}", "a step loses beside it", "switches, a step", "interrupts, a step"]
    rows = []
    for one in hiding:
        more = [beside - alone for beside, alone in zip(one.activity[BESIDE], one.activity[ALONE], strict=True)]
        cells = [seconds_text(one.raw_seconds), seconds_text(one.lost_seconds), f"{more[0]:+,.0f}", f"{more[1]:+,.0f}"]
        rows.append([one.network.title, *cells, f"{one.possible:.0%}", f"{one.hidden:.0%}", _share_text(one)])
    report.add_table([*header, f"hidden by a bare {RAW}", f"by {OVERLAPPED}", "share of that"], rows)
    report.add_text(f"Switches and interrupts: those of {BESIDE} beyond those of {ALONE}.")


def present_sums(report: Report, found: Sequence[Found], network: Network) -> None:
    """Show what one sync took on one network.

    Args:
        report: Where to.
        found: What each process measured; maybe no sums.
        network: Where.
    """
    for num_bytes, sums in found[0]["sums"].items():
        slowest = {
            name: _slowest([own["sums"][num_bytes]["seconds"][name] for own in found]) for name in sums["seconds"]
        }
        counted = {name: own for name, (own, _) in sums["counted"].items()}
        rows = []
        for name, seconds in slowest.items():
            elapsed, ratio = spread(seconds), ratios(seconds, slowest[FLOOR_SUM])
            rows.append(
                [
                    f"{name} (floor)" if name == FLOOR_SUM else name,
                    seconds_text(elapsed.median),
                    f"{seconds_text(elapsed.lowest)}..{seconds_text(elapsed.highest)}",
                    f"{ratio.median:.2f}",
                    ratio_text(ratio.lower_quartile, ratio.upper_quartile, digits=2),
                    _kilobytes_text(counted[name]),
                    f"{counted[name] / num_bytes:.2f}",
                    _kilobytes_text(sums["counted"][name][1]),
                ]
            )
        header = [f"{bytes_text(num_bytes)} at once", "median", "min..max", "ratio", "quartiles", "between hosts"]
        report.add_table([*header, "in vectors", "a worker says"], rows)
        if HOSTS_SUM in slowest:
            what = f"of {bytes_text(num_bytes)}, {network.title}"
            _judge_hosts(report, slowest, counted, what=what, network=network)


def _add_table(
    report: Report,
    counted: Mapping[str, Sequence[float | None]],
    slowest: Mapping[str, Sequence[float]],
    *,
    expected: Mapping[str, Sequence[float]],
    activity: Mapping[str, tuple[float, float]],
    num_samples: int,
) -> None:
    rows = []
    for name, seconds in slowest.items():
        elapsed, gain = spread(seconds), ratios(slowest[DDP], seconds)
        hidden = _hidden(slowest, name) if name.startswith((BESIDE, OVERLAPPED)) else None
        error = ratios(seconds, expected[name]).median - 1 if name in expected else None
        rows.append(
            [
                f"{name} (floor)" if name == ALONE else name,
                seconds_text(elapsed.median),
                f"{seconds_text(elapsed.lowest)}..{seconds_text(elapsed.highest)}",
                f"{gain.median:.2f}x",
                ratio_text(*gain.median_interval, digits=2),
                seconds_text(elapsed.median * NUM_EPOCH_SAMPLES / num_samples),
                seconds_text(statistics.median(expected[name])) if name in expected else "",
                "" if error is None else f"{error:+.1%}",
                "" if hidden is None else f"{hidden.median:.0%}",
                *(f"{count:,.0f}" for count in activity[name]),
                *(_kilobytes_text(count) for count in counted[name]),
            ]
        )
    header = ["contestant", "median step", "min..max", "throughput to DDP", "95% of median", "epoch"]
    header += ["compute + T / H", "error", "wait hidden", "switches, a step", "interrupts, a step"]
    report.add_table([*header, "between hosts, a step", "a worker says"], rows)


def _raw_seconds(found: Sequence[Found], num_repeats: int) -> list[float]:
    """Give the time of one raw sum, one number a repetition."""
    calls = _slowest([own["raw"] for own in found])
    each = len(calls) // num_repeats
    return [statistics.median(calls[first : first + each]) for first in range(0, len(calls), each)]


def _activity(counts: Sequence[Sequence[float]]) -> tuple[float, float]:
    switches, interrupts = (statistics.median(column) for column in zip(*counts, strict=True))
    return switches, interrupts


def _judge_throughput(report: Report, slowest: Mapping[str, Sequence[float]], title: str, *, total: float) -> None:
    for name, limit in THROUGHPUT_LIMITS.items():
        gain = ratios(slowest[DDP], slowest[name])
        value, least, met = f"{gain.median:.2f}x that of {DDP}", f"at least {limit:.1f}", gain.median >= limit
        report.add_goal(f"throughput of {name}, {title}", value, limit=f"{least}x", met=met)
        report.add_headline(f"training throughput, {title}", name, DDP, ratio=gain, goal=least, met=met)
    step, exposed = GOAL_STEP_SECONDS, _median_difference(slowest[DDP], slowest[ALONE])
    gains = [f"{(step + exposed) / (step + total * share):.1f}x with {name}" for name, share in SHARES_OF_T.items()]
    report.add_text(
        f"These goals were set where a step of {ALONE} took {seconds_text(step)}; here it takes "
        f"{seconds_text(statistics.median(slowest[ALONE]))}. With steps of {seconds_text(step)} this network would give "
        f"{', '.join(gains)}: ({seconds_text(step)} + D) / ({seconds_text(step)} + T / H), where D = "
        f"{seconds_text(exposed)} is what {DDP} adds to {ALONE}, and T is halved for BFloat16."
    )


def _judge_overlap(report: Report, hidden: Spread, hiding: Hiding) -> None:
    """Hold the share against its goal, and tell from what was measured whether it could be more."""
    title, met = hiding.network.title, hidden.median >= HIDDEN_LIMIT
    what = f"share of what {EVERY_8} waits for that {OVERLAPPED} hides, {title}"
    report.add_goal(what, f"{hidden.median:.0%}", limit=f"at least {HIDDEN_LIMIT:.0%}", met=met)
    goal = f"at least {HIDDEN_LIMIT:.2f}"
    report.add_headline(
        f"share of the wait that is hidden, {title}", OVERLAPPED, EVERY_8, ratio=hidden, goal=goal, met=met
    )
    (few, calm), (many, busy) = hiding.activity[ALONE], hiding.activity[BESIDE]
    share = f", which is {text} of that" if (text := _share_text(hiding)) else ""
    report.add_text(
        f"A bare asynchronous {RAW} beside the same steps hides {hiding.possible:.0%}: but for noise, nothing that sends as "
        f"many bytes can hide more here. {OVERLAPPED} hides {hidden.median:.0%}{share}. Beside the bare one a step of "
        f"{ALONE} loses {seconds_text(hiding.lost_seconds)}, while the machine takes {busy:,.0f} interrupts and switches "
        f"between threads {many:,.0f} times a step, against {calm:,.0f} and {few:,.0f} when nothing is sent."
    )


def _share_text(hiding: Hiding) -> str:
    return f"{hiding.hidden / hiding.possible:.0%}" if hiding.possible > 0 else ""


def _median_difference(seconds: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(mine - other for mine, other in zip(seconds, reference, strict=True))


def _hidden(slowest: Mapping[str, Sequence[float]], name: str) -> Spread | None:
    """Give (blocking - overlapped) / (blocking - compute), with the median denominator; ``None`` if that is too small."""
    blocking, overlapped, alone = (slowest[one] for one in (EVERY_8, name, ALONE))
    exposed = _median_difference(blocking, alone)
    if exposed < LEAST_EXPOSED * statistics.median(alone):
        return None
    return spread([(b - o) / exposed for b, o in zip(blocking, overlapped, strict=True)])


def _judge_hosts(
    report: Report,
    slowest: Mapping[str, Sequence[float]],
    counted: Mapping[str, float],
    *,
    what: str,
    network: Network,
) -> None:
    workers, num_processes = network.workers, network.num_processes
    ratio = ratios(slowest[HOSTS_SUM], slowest[FLOOR_SUM]).median
    share = counted[HOSTS_SUM] / counted[FLAT_SUM]
    report.add_goal(
        f"{HOSTS_SUM} / {FLOOR_SUM}, {what}",
        f"{ratio:.2f}",
        limit=f"at most {FLOOR_LIMIT:.2f}",
        met=ratio <= FLOOR_LIMIT,
    )
    report.add_text(
        "A flat ring over processes that are numbered host by host leaves a host in one place only, with 2 (K - 1) / K "
        f"vectors, K = {num_processes}. Host by host, one vector leaves, as in the floor; no sum can do with less."
    )
    report.add_goal(
        f"bytes between hosts, {HOSTS_SUM} / {FLAT_SUM}, {what}",
        f"{share:.2f}",
        limit=f"1 / {workers}, within 5%",
        met=share <= 1.05 / workers,
    )
    if INTERLEAVED_SUM in counted:
        dealt, expected = counted[HOSTS_SUM] / counted[INTERLEAVED_SUM], (network.hosts - 1) / (num_processes - 1)
        report.add_text(
            "Where a scheduler deals processes to hosts in turn, each hop of the flat ring leaves a host: K' = "
            f"{workers} processes send 2 (K - 1) / K vectors each. Bytes between hosts, {HOSTS_SUM} / {INTERLEAVED_SUM}, "
            f"{what}: {dealt:.2f}, by the formula (N - 1) / (K - 1) = {expected:.2f} with N = {network.hosts} hosts, which "
            "comes to 1 / K' as hosts become many."
        )


def _slowest(by_process: Sequence[Sequence[float]]) -> list[float]:
    return [max(repeat) for repeat in zip(*by_process, strict=True)]


def _kilobytes_text(num_bytes: float | None) -> str:
    return "nothing" if num_bytes is None else f"{num_bytes / 1000:,.1f} kB"
