"""How many samples a second do K workers on one device train on?

A block is one round of H local steps of all K workers and the sync that ends it. **Engines**: those of `localsgd.lab` that
can train the network here, beside a naive loop in plain torch (K models, K optimizers, parameters averaged one by one) and
the same network trained alone on batches of K x B samples, which is the ceiling: as many samples, one model. One process,
one thread. **All cores**: as `localsgd train` uses a CPU, one one-thread process a core with K / cores rows each, beside the
floor: the same processes with a bare loop that swaps each row through one flat vector and leaves out everything else, the
mean over processes included; and beside a naive loop and other packages that train many workers on one device, each in
processes of its own, with an environment of its own. **Memory**: how far resident memory grows when many rows are
constructed, step once and sync once. What threads, memory format, precision and allocator do to one worker is in
`cpu_settings.py`.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from _all_cores import report_pool
from _command import make_parser, parse
from _fleets import RECIPES, NaiveLoop, Setting, big_batch, engine_round
from _memory import can_measure, peak_resident_bytes
from _peers import NAIVE, PEERS, Peer
from _report import Report
from _timing import interleave, ratios

from localsgd import ArgumentError

CEILING = "one model, K x B"
GRAPH_OVER_PLAIN, GRAPH_OVER_CEILING = 4.0, 0.7
MEMORY_LIMIT = 24 * 2**30


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    models: tuple[str, ...]
    """Networks whose engines are compared."""
    workers: tuple[int, ...]
    """The values of K."""
    batch_sizes: tuple[int, ...]
    """The values of B."""
    pool: tuple[tuple[str, int, int], ...]
    """Network, K and B of each comparison on all cores: with the floor, a naive loop and the peers."""
    pool_alone: tuple[tuple[str, int, int, str], ...]
    """Network, K, B and precision of each comparison with the floor alone."""
    peers: tuple[str, ...]
    """Packages that take part."""
    memory: tuple[str, int, int]
    """Network, K and B of the many rows."""
    num_repeats: int
    """Repetitions of each block."""
    period: int = 2
    """Steps in a round."""
    pool_repeats: int
    """Repetitions of each round on all cores."""
    pool_period: int = 10
    """Steps in a round on all cores."""
    device: str = "cpu"
    """What to measure on."""
    seed: int = 0
    """Seed of weights, samples and orders."""


CPU = Scale(
    models=("logistic", "digits-mlp", "resnet20-patch"),
    workers=(1, 4, 16, 64),
    batch_sizes=(32, 128),
    pool=(("resnet20", 4, 32), ("resnet20", 16, 32)),
    pool_alone=(("resnet20", 16, 32, "bfloat16"), ("resnet20-patch", 16, 32, "float32")),
    peers=tuple(PEERS),
    memory=("resnet20", 1024, 2),
    num_repeats=5,
    pool_repeats=12,
)
GPU = replace(CPU, models=("resnet20",), pool=(), pool_alone=(), num_repeats=10, period=16, device="cuda")
SMOKE = Scale(
    models=("logistic",),
    workers=(1, 4),
    batch_sizes=(8,),
    pool=(("digits-mlp", 4, 8),),
    pool_alone=(),
    peers=(),
    memory=("digits-mlp", 8, 2),
    num_repeats=2,
    pool_repeats=2,
    pool_period=2,
)


def report_engines(report: Report, scale: Scale) -> None:
    """Compare the engines for every network, K and B."""
    report.add_heading("Engines, one process")
    best: list[tuple[Setting, dict[str, list[float]]]] = []
    names = ["plain", "stacked", *(["graph"] if scale.device == "cuda" else []), NAIVE.title, CEILING]
    rows = []
    for model, workers, batch_size in itertools.product(scale.models, scale.workers, scale.batch_sizes):
        setting = _setting(scale, model, workers, batch_size)
        found = interleave(_contestants(setting, names), num_warmups=2, num_repeats=scale.num_repeats, seed=scale.seed)
        best.append((setting, found))
        rows.append([f"{model}, K={workers}, B={batch_size}", *(_speed(setting, found.get(name)) for name in names)])
    report.add_text(
        "Samples a second; in brackets the ratio to the plain engine. Empty where an engine cannot train it."
    )
    report.add_table(["network", *names], [_with_ratios(row) for row in rows])
    for setting, found in best:
        _judge_engines(report, setting, found)


def _contestants(setting: Setting, names: Sequence[str]) -> dict[str, Callable[[], object]]:
    blocks: dict[str, Callable[[], object]] = {}
    for name in names:
        if name == NAIVE.title:
            blocks[name] = NaiveLoop(setting)
        elif name == CEILING:
            blocks[name] = big_batch(setting)
        else:
            try:
                blocks[name] = engine_round(setting, name)
            except ArgumentError:  # this engine cannot train this network
                continue
    return blocks


def _judge_engines(report: Report, setting: Setting, found: Mapping[str, Sequence[float]]) -> None:
    what = f"{setting.model}, K={setting.workers}, B={setting.batch_size}"
    if "graph" in found and (setting.workers, setting.batch_size) == (16, 128):
        for other, limit in (("plain", GRAPH_OVER_PLAIN), (CEILING, GRAPH_OVER_CEILING)):
            value = ratios(found[other], found["graph"]).median
            goal = f"at least {limit}"
            report.add_goal(f"{what}: graph over {other}", f"{value:.2f}", limit=goal, met=value >= limit)
    if "stacked" in found and setting.workers >= 4 and setting.device == "cpu":  # where engine=auto takes it
        value = ratios(found["plain"], found["stacked"]).median
        report.add_goal(f"{what}: stacked over plain", f"{value:.2f}", limit="at least 1.00", met=value >= 1)


def measure_memory(setting: Setting) -> int:
    """Construct the rows, take a step and sync, in a process of its own.

    Returns:
        The most memory that was resident, in bytes.
    """
    torch.set_num_threads(1)
    engine_round(setting, "plain")()
    return peak_resident_bytes()


def report_memory(report: Report, scale: Scale) -> None:
    """See whether very many rows fit."""
    model, workers, batch_size = scale.memory
    report.add_heading("Memory")
    if not can_measure():
        report.add_text("This system does not tell the peak of resident memory (Linux with glibc does): not measured.")
        return
    setting = replace(_setting(scale, model, workers, batch_size), period=1, device="cpu")
    peak = _in_new_process(measure_memory, setting)
    limit, value = f"at most {MEMORY_LIMIT / 2**30:.0f} GiB", f"{peak / 2**30:.2f} GiB"
    report.add_goal(f"peak of {workers} rows of {model}", value, limit=limit, met=peak <= MEMORY_LIMIT)


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--models", nargs="+", choices=tuple(RECIPES), help="networks of the first table")
    parser.add_argument("--workers", type=int, nargs="+", metavar="K", help="default: 1 4 16 64")
    parser.add_argument("--batch-sizes", type=int, nargs="+", metavar="B", help="default: 32 128")
    parser.add_argument(
        "--only", nargs="+", choices=("engines", "pool", "memory"), help="parts to measure; default: all"
    )
    parser.add_argument(
        "--peers", nargs="*", choices=tuple(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}; default: all"
    )
    options = parse(parser)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device.")
    torch.set_num_threads(1)
    scale = _scale(options)
    parts = options.only or ["engines", *(["pool"] if options.device == "cpu" else []), "memory"]
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    report.add_text(
        f"H={scale.period}, {scale.num_repeats} repetitions, SGD with Nesterov momentum, device {scale.device}."
    )
    if "engines" in parts:
        report_engines(report, scale)
    if "pool" in parts:
        _report_pool(report, scale, is_smoke=options.smoke)
    if "memory" in parts:
        report_memory(report, scale)
    report.write(options.out)


def _report_pool(report: Report, scale: Scale, *, is_smoke: bool) -> None:
    others = [NAIVE, *(PEERS[name] for name in scale.peers)]
    settings: list[tuple[Setting, list[Peer]]] = []
    for model, workers, batch_size in scale.pool:
        settings.append((replace(_setting(scale, model, workers, batch_size), period=scale.pool_period), others))
    for model, workers, batch_size, precision in scale.pool_alone:
        setting = _setting(scale, model, workers, batch_size)
        settings.append((replace(setting, period=scale.pool_period, precision=precision), []))
    report_pool(report, settings, num_repeats=scale.pool_repeats, seed=scale.seed, is_smoke=is_smoke)


def _scale(options: argparse.Namespace) -> Scale:
    scale = SMOKE if options.smoke else GPU if options.device == "cuda" else CPU
    return replace(
        scale,
        models=tuple(options.models or scale.models),
        workers=tuple(options.workers or scale.workers),
        batch_sizes=tuple(options.batch_sizes or scale.batch_sizes),
        num_repeats=options.repeats or scale.num_repeats,
        pool_repeats=options.repeats or scale.pool_repeats,
        peers=scale.peers if options.peers is None else tuple(options.peers),
        seed=options.seed,
    )


def _setting(scale: Scale, model: str, workers: int, batch_size: int) -> Setting:  # noqa: PLR0917 - as in the tuples above
    return Setting(
        model=model,
        workers=workers,
        batch_size=batch_size,
        period=scale.period,
        # The stacked engine has no such format; the networks that it can train have no convolutions.
        channels_last=model.startswith("resnet"),
        device=scale.device,
        seed=scale.seed,
    )


def _speed(setting: Setting, seconds: Sequence[float] | None) -> str:
    if seconds is None:
        return ""
    return f"{setting.workers * setting.batch_size * setting.period / statistics.median(seconds):.0f}"


def _with_ratios(row: list[str]) -> list[str]:
    network, plain, *others = row
    return [network, plain, *(other and f"{other} ({int(other) / int(plain):.2f})" for other in others)]


def _in_new_process(measure: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


if __name__ == "__main__":
    main()
