"""The tables and goals of shaped_network, from what its processes measured."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from _report import Report, bytes_text, ratio_text, seconds_text
from _timing import Spread, ratios, spread
from _wire_contestants import (
    ALONE,
    BESIDE,
    BFLOAT16,
    DDP,
    EVERY_8,
    EVERY_32,
    FLAT_SUM,
    FLOOR_SUM,
    HOSTS_SUM,
    OVERLAPPED,
    Way,
    missing_options,
)

__all__ = ["RAW", "Found", "present_sums", "present_training"]

Found = dict[str, Any]
RAW = "raw all_reduce"
NUM_EPOCH_SAMPLES = 50_000
SLOW_TITLE = "100 Mbit/s"
THROUGHPUT_LIMITS = {EVERY_8: 3.9, EVERY_32: 5.6, BFLOAT16: 4.9}
PREDICTION_LIMIT = 0.05
HIDDEN_LIMIT = 0.60
LEAST_EXPOSED = 0.05
"""What blocking syncs must add to a step, as a share of its computation, to ask how much of that can be hidden."""
FLOOR_LIMIT = 1.10


def present_training(
    report: Report, found: Sequence[Found], *, title: str, num_samples: int, ways: Mapping[str, Way]
) -> None:
    """Show what training took on one network.

    Args:
        report: Where to.
        found: What each process measured.
        title: What to call the network in goals.
        num_samples: Samples in a step of all workers.
        ways: The contestants.
    """
    slowest = {name: _slowest([own["seconds"][name] for own in found]) for name in ways}
    expected = _expected(found, slowest, ways)
    hidden = _hidden(slowest, OVERLAPPED) if OVERLAPPED in slowest else None
    rows = []
    for name, seconds in slowest.items():
        elapsed, gain = spread(seconds), ratios(slowest[DDP], seconds)
        error = ratios(seconds, expected[name]).median - 1 if name in expected else None
        rows.append(
            [
                f"{name} (floor)" if name == ALONE else name,
                seconds_text(elapsed.median),
                f"{seconds_text(elapsed.lowest)}..{seconds_text(elapsed.highest)}",
                f"{gain.median:.2f}x",
                ratio_text(gain.lower_quartile, gain.upper_quartile, digits=2),
                ratio_text(*gain.median_interval, digits=2),
                seconds_text(elapsed.median * NUM_EPOCH_SAMPLES / num_samples),
                seconds_text(statistics.median(expected[name])) if name in expected else "",
                "" if error is None else f"{error:+.1%}",
                f"{hidden.median:.0%}" if hidden is not None and name == OVERLAPPED else "",
                _kilobytes_text(found[0]["counted"][name][0]),
                _kilobytes_text(found[0]["counted"][name][1]),
            ]
        )
    header = ["contestant", "median step", "min..max", "throughput to DDP", "quartiles", "95% of median", "epoch"]
    header += ["compute + T / H", "error", "wait hidden", "between hosts, a step", "a worker says"]
    report.add_table(header, rows)
    calls = _slowest([own["raw"] for own in found])
    ceiling = ratios(slowest[DDP], slowest[ALONE]).median
    report.add_text(
        f"T, one {RAW} of parameters and statistics: {seconds_text(statistics.median(calls))}. With steps as slow as here, "
        f"nobody can come above the {ceiling:.2f}x of those who only compute; faster processors have more to gain."
    )
    if missing_options():
        report.add_text(
            f"Left out: contestants with {' and '.join(missing_options())}, which this localsgd does not have."
        )
    _judge_throughput(report, slowest, title)
    for name in (EVERY_8, EVERY_32):
        error = ratios(slowest[name], expected[name]).median - 1
        report.add_goal(
            f"{name} beyond compute + T / H, {title}",
            f"{error:+.1%}",
            limit=f"within {PREDICTION_LIMIT:.0%}",
            met=abs(error) <= PREDICTION_LIMIT,
        )
    if OVERLAPPED in slowest:
        _judge_overlap(report, hidden, title, possible=_hidden(slowest, BESIDE))


def present_sums(report: Report, found: Sequence[Found], *, title: str, workers: int) -> None:
    """Show what one sync took on one network.

    Args:
        report: Where to.
        found: What each process measured.
        title: What to call the network in goals.
        workers: Processes on each host.
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
            what = f"of {bytes_text(num_bytes)}, {title}"
            _judge_hosts(report, slowest, counted, what=what, workers=workers)


def _expected(
    found: Sequence[Found], slowest: Mapping[str, Sequence[float]], ways: Mapping[str, Way]
) -> dict[str, list[float]]:
    """Predict a step, one number a repetition, of contestants that do nothing but compute and sum in turn."""
    calls = _slowest([own["raw"] for own in found])
    each = len(calls) // len(slowest[ALONE])
    sums = [statistics.median(calls[first : first + each]) for first in range(0, len(calls), each)]
    return {
        name: [alone + total / way.period for alone, total in zip(slowest[ALONE], sums, strict=True)]
        for name, way in ways.items()
        if way.is_predicted and way.period
    }


def _judge_throughput(report: Report, slowest: Mapping[str, Sequence[float]], title: str) -> None:
    for name, limit in THROUGHPUT_LIMITS.items():
        if title.startswith(SLOW_TITLE) and name in slowest:
            gain = ratios(slowest[DDP], slowest[name])
            value, least, met = f"{gain.median:.2f}x that of {DDP}", f"at least {limit:.1f}", gain.median >= limit
            report.add_goal(f"throughput of {name}, {title}", value, limit=f"{least}x", met=met)
            report.add_headline(f"training throughput, {title}", name, DDP, ratio=gain, goal=least, met=met)


def _judge_overlap(report: Report, hidden: Spread | None, title: str, *, possible: Spread | None) -> None:
    if hidden is None or possible is None:
        report.add_text(
            f"{EVERY_8} waits too little, beside what a step computes, to judge how much {OVERLAPPED} hides."
        )
        return
    report.add_text(
        f"Of the same wait, a bare {RAW} beside steps hides {possible.median:.0%}: the rest is what the cores that "
        "compute spend on sending, which nobody hides without a core to spare."
    )
    met = hidden.median >= HIDDEN_LIMIT
    what = f"share of what {EVERY_8} waits for that {OVERLAPPED} hides, {title}"
    report.add_goal(what, f"{hidden.median:.0%}", limit=f"at least {HIDDEN_LIMIT:.0%}", met=met)
    goal = f"at least {HIDDEN_LIMIT:.2f}"
    report.add_headline(
        f"share of the wait that is hidden, {title}", OVERLAPPED, EVERY_8, ratio=hidden, goal=goal, met=met
    )


def _hidden(slowest: Mapping[str, Sequence[float]], name: str) -> Spread | None:
    """Give (blocking - overlapped) / (blocking - compute), with the median denominator; ``None`` if that is too small."""
    blocking, overlapped, alone = (slowest[one] for one in (EVERY_8, name, ALONE))
    exposed = statistics.median(b - a for b, a in zip(blocking, alone, strict=True))
    if exposed < LEAST_EXPOSED * statistics.median(alone):
        return None
    return spread([(b - o) / exposed for b, o in zip(blocking, overlapped, strict=True)])


def _judge_hosts(
    report: Report,
    slowest: Mapping[str, Sequence[float]],
    counted: Mapping[str, float],
    *,
    what: str,
    workers: int,
) -> None:
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
        f"vectors, K = {2 * workers}. Host by host, one vector leaves, as in the floor; no sum can do with less."
    )
    report.add_goal(
        f"bytes between hosts, {HOSTS_SUM} / {FLAT_SUM}, {what}",
        f"{share:.2f}",
        limit=f"1 / {workers}, within 5%",
        met=share <= 1.05 / workers,
    )


def _slowest(by_process: Sequence[Sequence[float]]) -> list[float]:
    return [max(repeat) for repeat in zip(*by_process, strict=True)]


def _kilobytes_text(num_bytes: float | None) -> str:
    return "nothing" if num_bytes is None else f"{num_bytes / 1000:,.1f} kB"
