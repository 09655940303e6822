"""What does one sync cost beside one raw all_reduce of the same bytes?

Processes on this machine, one thread each, joined by Gloo over the loopback, average parameters shaped like ResNet-20
(0.27 million) and ResNet-50 (25.6 million). The floor is one `all_reduce` of one contiguous vector of as many bytes as
the parameters. A repetition times one sync of every contestant, in an order drawn anew, each after a barrier; it takes
as long as in its slowest process. Ratios are formed within each repetition. The floor runs a second time under another
name: how far that ratio is from 1 says what the other ratios are worth. Right after a barrier everybody is wide awake,
which is where the floor is lowest and the ratios are highest: in training a sync follows a computation (`--pause 0.001`),
never another sync (`--calls 15`). Every contestant has to produce the mean before it is timed.

Extra memory is the rise of resident memory, above what a process held before the sync, while it syncs. Collectives are those
that one process enters in one sync, counted where torch.distributed hands them to Gloo; what a contestant says in other
ways (torchft asks a lighthouse for a quorum, and votes) is in its time but not in this number.

DDP averages gradients, at each step. Its module computes nothing: a backward pass writes the gradients, DDP copies
them into its buckets, averages those, and copies back; all of that is timed, and the gradients are its extra memory. The
buckets, one more model, it holds all the time. torchft runs in an environment of its own, with the same torch, beside a
floor of its own in the same processes; DiLoCo's outer step is plain SGD of rate 1 here, so that it leaves the mean.
"""

import json
import subprocess
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from _averagers import CONTESTANTS, CONTROL, OURS, absent, available
from _bare_models import Shape, num_elements
from _command import make_parser, parse
from _environments import PeerError, pin_of, python_of, variables
from _parameter_lists import resnet20_shapes, resnet50_shapes
from _processes import run_in_processes
from _report import Report, bytes_text, ratio_text, seconds_text
from _sync_measuring import FLOOR, Settings, Spent, measure, merge
from _timing import ratios, spread

RATIO_LIMIT = 1.10
EXTRA_COPIES_LIMIT = 0.5  # a copy of the model would be 1
NUM_WARMUPS = 3
REPEATS = {"resnet20": 250, "resnet50": 21}
MAX_TORCHFT_REPEATS = 60  # its ratios are far from 1, and each of its syncs takes long
TIMEOUT_SECONDS = 900
TORCHFT = "torchft"
HEADER = ["contestant", "median", "min..max", "ratio", "quartiles", "95% of median"]
HEADER += ["extra memory", "in models", "collectives"]


def measure_here(shapes: list[Shape], settings: Settings) -> dict[str, Any]:
    """Measure the contestants of this environment; every process calls this."""
    return measure({name: CONTESTANTS[name](shapes) for name in available()}, settings)


def measure_torchft(shapes: list[Shape], settings: Settings, *, num_processes: int, may_install: bool) -> Spent | str:
    """Measure torchft in its own environment.

    Returns:
        What its syncs took, or the reason for which there is none.
    """
    try:
        python = python_of(TORCHFT, may_install=may_install)
    except PeerError as error:
        return f"not installed: {error}"
    with tempfile.TemporaryDirectory(prefix="localsgd-benchmark-") as folder:
        question, answer = Path(folder, "question.json"), Path(folder, "answer.json")
        asked = {"shapes": shapes, "processes": num_processes, "settings": asdict(settings)}
        question.write_text(json.dumps(asked), encoding="utf-8")
        program = Path(__file__).with_name("_torchft_averagers.py")
        try:
            done = subprocess.run(
                [python, program, question, answer],
                env=variables(RUST_LOG="error"),  # otherwise it writes many lines a sync
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"did not finish within {TIMEOUT_SECONDS} s"
        if not answer.exists():
            return f"failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1][:160]}"
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    del found["versions"]
    return Spent(**found)


def rows_of(spent: Spent, *, num_bytes: int, floor: str) -> list[list[str]]:
    """Word what syncs took, a row a contestant."""
    rows = []
    for name, seconds in spent.seconds.items():
        elapsed, ratio, extra = spread(seconds), ratios(seconds, spent.seconds[FLOOR]), spent.extra_bytes.get(name)
        rows.append(
            [
                floor if name == FLOOR else name,
                seconds_text(elapsed.median),
                f"{seconds_text(elapsed.lowest)}..{seconds_text(elapsed.highest)}",
                f"{ratio.median:.2f}",
                ratio_text(ratio.lower_quartile, ratio.upper_quartile, digits=2),
                ratio_text(*ratio.median_interval, digits=2),
                "unknown" if extra is None else bytes_text(extra),
                "unknown" if extra is None else f"{extra / num_bytes:.2f}",
                str(spent.collectives[name]),
            ]
        )
    return rows


def present(report: Report, here: Spent, torchft: Spent | str, *, title: str, num_bytes: int) -> None:
    """Show what was measured for one model."""
    report.add_heading(title)
    rows = rows_of(here, num_bytes=num_bytes, floor=f"{FLOOR} (floor)")
    missing = absent()
    if isinstance(torchft, Spent):
        rows += rows_of(torchft, num_bytes=num_bytes, floor=f"{FLOOR}, beside torchft (its floor)")
    else:
        missing = {**missing, "torchft LocalSGD and DiLoCo": torchft}
    rows += [[name, *["-"] * (len(HEADER) - 1)] for name in missing]
    report.add_table(HEADER, rows)
    for name, reason in missing.items():
        report.add_text(f"{name}: {reason}")
    floor, own_seconds = spread(here.seconds[FLOOR]), here.own_seconds[OURS]
    report.add_text(
        f"{bytes_text(num_bytes)} of parameters, {floor.num_repeats} repetitions. Of a sync {OURS} spends "
        f"{seconds_text(own_seconds)} outside the collective: {own_seconds / floor.median:.1%} of the floor."
    )
    _judge(report, here, title=title, num_bytes=num_bytes)
    for spent in (here, torchft) if isinstance(torchft, Spent) else (here,):
        for name, seconds in spent.seconds.items():
            if name not in (FLOOR, OURS, CONTROL):
                report.add_headline(_question(title), name, FLOOR, ratio=ratios(seconds, spent.seconds[FLOOR]))
    for name, reason in missing.items():
        report.add_headline(_question(title), name, FLOOR, ratio=None, note=reason)


def _judge(report: Report, here: Spent, *, title: str, num_bytes: int) -> None:
    ours = ratios(here.seconds[OURS], here.seconds[FLOOR])
    limit, met = f"at most {RATIO_LIMIT:.2f}", ours.median <= RATIO_LIMIT
    report.add_goal(f"{OURS} / {FLOOR}, {title}", f"{ours.median:.3f}", limit=limit, met=met)
    report.add_headline(_question(title), OURS, FLOOR, ratio=ours, goal=limit, met=met)
    if here.extra_bytes:
        extra = (here.extra_bytes[OURS] - here.extra_bytes[FLOOR]) / num_bytes
        report.add_goal(
            f"memory of a {OURS} sync beyond that of the {FLOOR}, {title}",
            f"{extra:.2f} models",
            limit=f"no copy, so less than {EXTRA_COPIES_LIMIT}",
            met=extra < EXTRA_COPIES_LIMIT,
        )


def _question(title: str) -> str:
    return f"time of one sync, {title}"


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--processes", type=int, nargs="+", metavar="N", help="default: 2 4; with --smoke: 2")
    parser.add_argument(
        "--models", nargs="+", choices=("resnet20", "resnet50"), help="default: both; with --smoke: resnet20"
    )
    parser.add_argument(
        "--calls", type=int, default=1, metavar="N", help="syncs back to back in a repetition; default: 1"
    )
    parser.add_argument(
        "--pause", type=float, default=0.0, metavar="S", help="seconds of work between barrier and sync; default: 0"
    )
    options = parse(parser)
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    report.add_text(f"In an environment of its own: {pin_of(TORCHFT)}.")
    makers = {"resnet20": resnet20_shapes, "resnet50": resnet50_shapes}
    for model in options.models or (["resnet20"] if options.smoke else list(makers)):
        shapes = makers[model]()
        for num_processes in options.processes or ([2] if options.smoke else [2, 4]):
            settings = Settings(
                num_warmups=1 if options.smoke else NUM_WARMUPS,
                num_repeats=options.repeats or (2 if options.smoke else REPEATS[model]),
                num_calls=options.calls,
                pause_seconds=options.pause,
                seed=options.seed,
            )
            found = run_in_processes(measure_here, num_processes, shapes, settings, timeout_seconds=TIMEOUT_SECONDS)
            fewer = replace(settings, num_repeats=min(settings.num_repeats, MAX_TORCHFT_REPEATS))
            torchft = measure_torchft(shapes, fewer, num_processes=num_processes, may_install=not options.smoke)
            title = f"{model}-sized, {num_processes} processes"
            present(report, merge(found), torchft, title=title, num_bytes=4 * num_elements(shapes))
    report.write(options.out)


if __name__ == "__main__":
    main()
