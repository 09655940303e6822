"""Which work is worth a pool of processes of its own?

`localsgd train` on a CPU leaves a short run to one process with a thread a core, and starts a process of one thread a core
for a long one: where it foretells more than 30 seconds of work for one core, from the operations of the network, without
timing anything. Three questions decide whether that is right.

**What does the pool cost?** A tiny run of the demo's network, in this process and in a pool, from the start of the program
to its end: wall-clock time, and the processors' time.

**Is the work foretold right?** Training steps (forward, backward, optimizer) on random data, on one core with the others
idle: **foretold** over the median, for the paper's network and two of another kind.

**From when does the pool pay?** The same steps with a thread a core, and with a process a core at once, divided by their
number. What the pool saves of each second that one core would need has to bring back what it costs to start: **pays
from** is the work, in seconds of one core, at which it does.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from _command import make_parser, parse
from _processes import run_in_processes
from _report import Report, ratio_text, seconds_text
from _timing import Spread, interleave, ratios, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from localsgd.cli.workload import WORTH_SECONDS, predict_batch_seconds
from localsgd.lab.cores import usable_cores
from localsgd.lab.engine.allocator import keep_freed_memory
from localsgd.lab.models import ImageInputs, TextInputs, build

FACTOR = 2.0
"""By how much a prediction may be wrong."""
NUM_WARMUPS = 1
TINY_RUN = (
    *("train", "digits-mlp", "--algorithm", "local", "--workers", "4", "--epochs", "1", "--train-limit", "320"),
    *("--set", "data.test_limit=20", "--set", "evaluate_every_epochs=none"),
)
"""Its training takes a few hundredths of a second."""
NUM_POOL_PROCESSES = 2
TIMEOUT_SECONDS = 540.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and its batch."""

    model: str
    """Name of the network."""
    inputs: ImageInputs | TextInputs
    """What it reads."""
    batch_size: int
    """Samples of a batch."""
    length: int = 0
    """Tokens in a sample of text."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    cases: tuple[Case, ...]
    """The networks."""
    num_repeats: int
    """Timed steps of each network in each way."""
    num_starts: int
    """Timed runs with a pool, and without."""
    num_warmup_starts: int
    """Runs before, that find files in memory afterwards."""


FULL = Scale(
    cases=(
        Case(model="resnet20", inputs=ImageInputs(num_classes=10, image_shape=(3, 32, 32)), batch_size=128),
        Case(model="lstm650", inputs=TextInputs(vocabulary_size=33_278), batch_size=16, length=30),
        Case(model="transformer-small", inputs=TextInputs(vocabulary_size=65), batch_size=32, length=64),
    ),
    num_repeats=9,
    num_starts=7,
    num_warmup_starts=1,
)
SMOKE = Scale(
    cases=(
        Case(model="digits-cnn", inputs=ImageInputs(num_classes=10, image_shape=(1, 8, 8)), batch_size=4),
        Case(model="lstm64", inputs=TextInputs(vocabulary_size=65), batch_size=2, length=8),
    ),
    num_repeats=2,
    num_starts=1,
    num_warmup_starts=0,
)


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these of the networks that are timed")
    options = parse(parser)
    scale = SMOKE if options.smoke else FULL
    known = {case.model for case in scale.cases}
    if options.models and not known.issuperset(options.models):
        parser.error(f"--models {' '.join(options.models)} must be among {', '.join(sorted(known))}.")
    num_cores = usable_cores()
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    num_starts = options.repeats or scale.num_starts
    seconds = _report_starts(report, num_starts, num_warmups=scale.num_warmup_starts, seed=options.seed)
    report.add_heading("Work")
    num_repeats = options.repeats or scale.num_repeats
    chosen = [case for case in scale.cases if case.model in (options.models or known)]
    found = run_in_processes(_measure_all, num_cores, chosen, num_repeats, num_cores, timeout_seconds=TIMEOUT_SECONDS)
    rows = [
        _report_work(report, case, of_case, start_seconds=seconds)
        for case, *of_case in zip(chosen, *found, strict=True)
    ]
    header = ["network", "B", "foretold", "one core", "over true", "quartiles"]
    report.add_table([*header, f"{num_cores} threads", f"{num_cores} processes / {num_cores}", "pays from"], rows)
    report.write(options.out)


def _report_starts(report: Report, num_repeats: int, *, num_warmups: int, seed: int) -> float:
    """Time tiny runs; give the median of the seconds that a pool costs."""
    processors: dict[str, list[float]] = {"1": [], str(NUM_POOL_PROCESSES): []}
    wall = interleave(
        {number: _start(number, spent) for number, spent in processors.items()},
        num_warmups=num_warmups,
        num_repeats=num_repeats,
        seed=seed,
    )
    alone, pool = processors
    rows = [_start_row(f"--processes {number}", wall[number], processors[number][num_warmups:]) for number in wall]
    extra = [
        [mine - other for mine, other in zip(found[pool][-num_repeats:], found[alone][-num_repeats:], strict=True)]
        for found in (wall, processors)
    ]
    report.add_heading("Start")
    report.add_table(["run", "wall", "quartiles", "processors"], [*rows, _start_row("the pool costs", *extra)])
    return spread(extra[0]).median


def _start(number: str, spent: list[float]) -> Callable[[], None]:
    """Make a run on so many processes; it adds the processors' time to ``spent``."""

    def run() -> None:
        before = _children_seconds()
        with tempfile.TemporaryDirectory(prefix="localsgd-benchmark-") as folder:
            command = [sys.executable, "-m", "localsgd", *TINY_RUN, "--processes", number, "--out", f"{folder}/run"]
            environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
            subprocess.run(command, check=True, capture_output=True, env=environment, timeout=TIMEOUT_SECONDS)
        spent.append(_children_seconds() - before)

    return run


def _children_seconds() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def _start_row(name: str, wall: list[float], processors: list[float]) -> list[str]:
    found = spread(wall)
    quartiles = f"{found.lower_quartile:.2f}..{found.upper_quartile:.2f} s"
    return [name, f"{found.median:.2f} s", quartiles, f"{spread(processors).median:.2f} s"]


def _report_work(report: Report, case: Case, found: list[dict[str, Any]], *, start_seconds: float) -> list[str]:
    """Judge one network by what each process measured; give its line of the table."""
    alone, threads, foretold = (found[0][name] for name in ("alone", "threads", "foretold"))
    together = [max(times) / len(found) for times in zip(*(one["together"] for one in found), strict=True)]
    over_true = ratios([foretold] * len(alone), alone)
    saved = _median_of_savings(alone, threads, together)
    pays_from = max(0.0, start_seconds) / saved if saved > 0 else float("inf")
    what = f"the time foretold for a step of {case.model}, over the true one,"
    is_right = 1 / FACTOR <= over_true.median <= FACTOR
    report.add_goal(what, f"{over_true.median:.2f}", limit=f"{1 / FACTOR} to {FACTOR}", met=is_right)
    what = f"the work of {case.model} from which a pool pays"
    is_right = WORTH_SECONDS / FACTOR <= pays_from <= WORTH_SECONDS * FACTOR
    limit = f"{WORTH_SECONDS / FACTOR:g} to {WORTH_SECONDS * FACTOR:g} s, around the {WORTH_SECONDS:g} s assumed"
    report.add_goal(what, _work_text(pays_from), limit=limit, met=is_right)
    return [
        case.model,
        str(case.batch_size),
        seconds_text(foretold),
        *_compared(alone, over_true),
        seconds_text(spread(threads).median),
        seconds_text(spread(together).median),
        _work_text(pays_from),
    ]


def _compared(alone: list[float], over_true: Spread) -> list[str]:
    quartiles = ratio_text(over_true.lower_quartile, over_true.upper_quartile)
    return [seconds_text(spread(alone).median), f"{over_true.median:.2f}", quartiles]


def _median_of_savings(alone: list[float], threads: list[float], together: list[float]) -> float:
    """Give what a pool saves of each second of work for one core, beside one process with a thread a core."""
    return spread([(b - c) / a for a, b, c in zip(alone, threads, together, strict=True)]).median


def _work_text(seconds: float) -> str:
    return "never" if seconds == float("inf") else f"{seconds:.0f} s"


def _measure_all(cases: list[Case], num_repeats: int, num_cores: int) -> list[dict[str, Any]]:
    """Time steps of each network in one of several processes."""
    keep_freed_memory()
    return [_measure(case, num_repeats, num_cores) for case in cases]


def _measure(case: Case, num_repeats: int, num_cores: int) -> dict[str, Any]:
    """Time steps: of the first process alone, with one thread and with one a core; then of everybody with one."""
    is_first = dist.get_rank() == 0
    model, examples, targets = _prepare(case)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step() -> None:
        logits = model(examples)[0].flatten(0, 1) if case.length else model(examples)
        loss = cross_entropy(logits, targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        optimizer.step()
        optimizer.zero_grad()

    def step_if_first(num_threads: int) -> None:
        if is_first:
            torch.set_num_threads(num_threads)
            step()
            torch.set_num_threads(1)

    seconds = interleave(
        {"alone": lambda: step_if_first(1), "threads": lambda: step_if_first(num_cores), "together": step},
        num_warmups=NUM_WARMUPS,
        num_repeats=num_repeats,
        before=_wait_for_all,
    )
    return {**seconds, "foretold": predict_batch_seconds(model, examples[:1], batch_size=case.batch_size)}


def _wait_for_all() -> None:
    dist.barrier()
    time.sleep(0.01)  # who left first must not meet the others still waking up


def _prepare(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    model = build(case.model, seed=0, inputs=case.inputs)
    if isinstance(case.inputs, TextInputs):
        tokens = torch.randint(case.inputs.vocabulary_size, (case.batch_size, case.length + 1), generator=draw)
        return model, tokens[:, :-1], tokens[:, 1:].flatten()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no annotation for it
    images = torch.randn((case.batch_size, *case.inputs.image_shape), generator=draw)
    labels = torch.randint(case.inputs.num_classes, (case.batch_size,), generator=draw)
    return model, images.contiguous(memory_format=torch.channels_last), labels


if __name__ == "__main__":
    main()
