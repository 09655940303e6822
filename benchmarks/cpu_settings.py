"""Which settings move how fast one worker trains on a CPU?

Threads, memory format of convolutions, precision, `torch.compile`, allocator, and the way in which the optimizer goes over
the tensors: each is changed alone, from what the product does by default, which is asked of the product itself. The default
has a process for each core, with a worker and one thread each, as in `localsgd train`; samples a second are those of all
processes together. Every variant lives in processes of its own, which wait, idle, while others run their blocks: forward,
backward, and a step of the optimizer on one batch of noise. What the first step took, in which `torch.compile` compiles, is
not in the speed. **gain** is the speed over the default's, formed within each repetition. Where its 95% interval is wholly
above 1, it contradicts the default, and is printed as a finding. The last row of a table then has everything at its fastest.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from _command import make_parser, parse
from _environments import PeerError
from _peers import Peer, Remote, started
from _report import Report, ratio_text, seconds_text
from _timing import Spread, interleave, ratios, spread
from _variants import Case, Variant, Work
from torch import nn

import localsgd.cli.session
from localsgd.cli.workload import choose_processes
from localsgd.lab.cores import usable_cores
from localsgd.lab.forward import Forward
from localsgd.lab.models import build
from localsgd.lab.optimizers import make_optimizer
from localsgd.lab.recipes import recipe

GAIN_LIMIT = 1.05
"""A finding below this is not worth a change of the default."""
FEWEST_REPEATS = 6
"""What an interval of 95% needs at least: see `_timing.Spread`."""
NUM_WARMUPS = 1
FIELDS: Mapping[str, tuple[str, ...]] = {
    "threads": ("processes", "threads"),
    "memory format": ("channels_last",),
    "precision": ("precision",),
    "torch.compile": ("compiled",),
    "allocator": ("allocator",),
    "optimizer": ("optimizer",),
}
"""The fields of a variant that belong to each factor."""
FACTORS = tuple(FIELDS)
DEFAULT, BEST = "default", "all at their fastest"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    cases: tuple[Case, ...]
    """What is trained."""
    factors: tuple[str, ...]
    """What is changed."""
    num_repeats: int
    """Blocks of each variant that count."""
    seed: int = 0
    """Seed of weights, batches and orders."""


FULL = Scale(
    cases=(
        Case(recipe="cifar10-resnet20", model="resnet20", batch_size=32, num_steps=12),
        Case(recipe="cifar10-resnet20", model="resnet20", batch_size=128, num_steps=3),
        Case(recipe="digits-mlp", model="digits-mlp", batch_size=32, num_steps=1500),
        Case(recipe="tinyshakespeare-transformer", model="transformer-tiny", batch_size=8, num_steps=60),
    ),
    factors=FACTORS,
    num_repeats=7,
)
SMOKE = Scale(
    cases=(Case(recipe="digits-mlp", model="digits-mlp", batch_size=8, num_steps=2),),
    factors=("allocator",),
    num_repeats=2,
)


def read_default(case: Case) -> Variant:
    """Ask the product what it does by default, by letting it do so on a model like the case's.

    Args:
        case: What is trained.

    Returns:
        Its settings: those of a run that is long enough to be worth more than one process, with a worker for each core.
    """
    config = case.config()
    forward = Forward(config, torch.device("cpu"))
    model = forward.place(build(case.model, seed=0, inputs=case.inputs()))
    with forward.arithmetic():
        precision = "bfloat16" if torch.is_autocast_enabled("cpu") else "float32"
    image = forward.arrange(torch.zeros(2, 3, 4, 4))
    group = make_optimizer(model, config.optimizer, learning_rate=1e-3).param_groups[0]
    processes = _default_processes()
    return Variant(
        processes=processes,
        threads=max(1, usable_cores() // processes),
        channels_last=_has_convolutions(model) and image.is_contiguous(memory_format=torch.channels_last),
        precision=precision,
        compiled=hasattr(model, "_orig_mod"),
        allocator="tuned" if hasattr(localsgd.cli.session, "keep_freed_memory") else "untuned",
        optimizer="fused" if group["fused"] else "foreach" if group["foreach"] else "for-loop",
    )


def variants_of(case: Case, default: Variant, factors: Sequence[str]) -> dict[str, dict[str, Variant]]:
    """List the other levels of each factor, each changed alone.

    Args:
        case: What is trained.
        default: What the product does.
        factors: What to change.

    Returns:
        Variants by factor, then by the word for the level.
    """
    cores = usable_cores()
    layouts = dict.fromkeys([(1, 1), (1, cores), (cores, 1)])  # on one core they are all one
    levels: dict[str, list[Variant]] = {
        "threads": [default.changed(processes=processes, threads=threads) for processes, threads in layouts],
        "memory format": [default.changed(channels_last=last) for last in (False, True)],
        "precision": [default.changed(precision=precision) for precision in ("float32", "bfloat16")],
        "torch.compile": [default.changed(compiled=compiled) for compiled in (False, True)],
        "allocator": [default.changed(allocator=allocator) for allocator in ("untuned", "tuned")],
        "optimizer": [default.changed(optimizer=name) for name in ("for-loop", "foreach", "fused")],
    }
    if not _has_convolutions(build(case.model, seed=0, inputs=case.inputs())):
        levels["memory format"] = []
    return {
        factor: {level.describe((factor,)): level for level in levels[factor] if level != default} for factor in factors
    }


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was measured, by the name of the variant."""

    seconds: dict[str, list[float]]
    """Seconds for one sample of all processes together, one number a repetition."""
    first_seconds: dict[str, float]
    """What the first step took."""
    missing: dict[str, str]
    """Why others did not run."""

    @property
    def gains(self) -> dict[str, Spread]:
        """Speeds over the default's."""
        return {name: ratios(self.seconds[DEFAULT], seconds) for name, seconds in self.seconds.items()}


def measure(case: Case, variants: Mapping[str, Variant], *, scale: Scale) -> Found:
    """Run blocks of all variants in turn.

    Args:
        case: What is trained.
        variants: Settings by name, with the default among them.
        scale: How much.

    Returns:
        What was found.
    """
    with ExitStack() as stack:
        fleets: dict[str, Fleet] = {}
        missing: dict[str, str] = {}
        for name, variant in variants.items():
            try:
                fleets[name] = stack.enter_context(_fleet(case, variant, seed=scale.seed))
            except PeerError as error:
                missing[name] = str(error)
        first_seconds = {name: fleet.first_seconds() for name, fleet in fleets.items()}
        found = interleave(fleets, num_warmups=NUM_WARMUPS, num_repeats=scale.num_repeats, seed=scale.seed)
        missing |= {name: fleet.failure for name, fleet in fleets.items() if fleet.failure}
    samples = {name: case.batch_size * case.num_steps * variants[name].processes for name in found}
    seconds = {name: [time / samples[name] for time in times] for name, times in found.items() if name not in missing}
    return Found(seconds=seconds, first_seconds=first_seconds, missing=missing)


class Fleet:
    """The processes of a variant, which run their blocks at the same time."""

    def __init__(self, remotes: Sequence[Remote]) -> None:
        """Gather them.

        Args:
            remotes: One a process.
        """
        self._remotes = remotes

    @property
    def failure(self) -> str | None:
        """Why one of them stopped; ``None`` while all run."""
        return next((remote.failure for remote in self._remotes if remote.failure), None)

    def __call__(self) -> None:
        """Run a block in each."""
        for remote in self._remotes:
            remote.begin()
        for remote in self._remotes:
            remote.end()

    def first_seconds(self) -> float:
        """Give what the first step took in the slowest."""
        return max(remote.tell() for remote in self._remotes)


@contextmanager
def _fleet(case: Case, variant: Variant, *, seed: int) -> Iterator[Fleet]:
    peer = Peer(title=case.title, module="_variants", num_threads=variant.threads, note="")
    with started(peer, [Work(case=case, variant=variant, seed=seed).write()] * variant.processes) as paths:
        remotes = [Remote(path) for path in paths]
        try:
            yield Fleet(remotes)
        finally:
            for remote in remotes:
                remote.close()


def report_case(report: Report, case: Case, *, scale: Scale, is_smoke: bool) -> None:
    """Change each factor alone, then all that gained together.

    Args:
        report: Where to write.
        case: What is trained.
        scale: How much.
        is_smoke: Whether to keep quiet on the way.
    """
    default = read_default(case)
    levels = variants_of(case, default, scale.factors)
    variants = {DEFAULT: default} | {name: level for found in levels.values() for name, level in found.items()}
    _progress(f"{case.title}: {len(variants)} variants", is_smoke=is_smoke)
    found = measure(case, variants, scale=scale)
    report.add_heading(case.title)
    if DEFAULT in found.missing:
        report.add_text(f"Not measured: {found.missing[DEFAULT]}")
        return
    rows = [_row("", DEFAULT, found, chosen=default.describe(scale.factors))]
    best = default
    for factor, names in levels.items():
        there = [name for name in names if name in found.gains]
        rows += [_row(factor, name, found, chosen=default.describe((factor,))) for name in there]
        fastest = max(there, key=lambda name: found.gains[name].median, default=None)
        if fastest is not None and is_gain(found.gains[fastest]):
            best = best.changed(**{field: getattr(names[fastest], field) for field in FIELDS[factor]})
    missing = dict(found.missing)
    if best != default:
        _progress(f"{case.title}: {best.describe(scale.factors)}", is_smoke=is_smoke)
        together = measure(case, {DEFAULT: default, BEST: best}, scale=scale)
        missing |= together.missing
        if BEST in together.gains:
            rows.append(_row("all", BEST, together, chosen=""))
    header = [
        "factor",
        "level",
        "samples/s",
        "quartiles",
        "gain",
        "95% of median",
        "first step",
        "the product's default",
    ]
    report.add_table(header, rows)
    for name, reason in missing.items():
        report.add_text(f"{name} is not in the table: {reason}")
    if best != default:
        report.add_text(f"All at their fastest: {best.describe(scale.factors)}.")
    _judge(report, case, found, levels=levels)


def is_gain(gain: Spread) -> bool:
    """Say whether a gain is more than chance.

    Args:
        gain: Speeds over the default's.

    Returns:
        Whether all of its 95% interval is above 1; fewer than six repetitions have no such interval.
    """
    return gain.num_repeats >= FEWEST_REPEATS and gain.median_interval[0] > 1


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these of the networks that are trained")
    parser.add_argument("--factors", nargs="+", choices=FACTORS, metavar="NAME", help=f"of {', '.join(FACTORS)}")
    options = parse(parser)
    scale = SMOKE if options.smoke else FULL
    known = {case.model for case in scale.cases}
    if options.models and not known.issuperset(options.models):
        parser.error(f"--models {' '.join(options.models)} must be among {', '.join(sorted(known))}.")
    scale = replace(
        scale,
        cases=tuple(case for case in scale.cases if case.model in (options.models or known)),
        factors=tuple(options.factors or scale.factors),
        num_repeats=options.repeats or scale.num_repeats,
        seed=options.seed,
    )
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    report.add_text(f"{usable_cores()} cores, {scale.num_repeats} repetitions.")
    for case in scale.cases:
        report_case(report, case, scale=scale, is_smoke=options.smoke)
    report.write(options.out)


def _judge(report: Report, case: Case, found: Found, *, levels: Mapping[str, Mapping[str, Variant]]) -> None:
    for factor, names in levels.items():
        for name in names:
            if name in found.gains and is_gain(found.gains[name]):
                gain, interval = found.gains[name].median, ratio_text(*found.gains[name].median_interval)
                text = f"{case.title}: {factor}: {name} is {gain:.3f} times as fast as the default (95%: {interval})"
                report.add_text(f"finding: {text}")
    others = {name: gain for name, gain in found.gains.items() if name != DEFAULT}
    fastest = max(others, key=lambda name: others[name].median, default=None)
    if fastest is not None:
        largest = others[fastest].median
        what = f"{case.title}: the largest gain over the default, by {fastest},"
        limit, met = f"at most {GAIN_LIMIT}", largest <= GAIN_LIMIT
        report.add_goal(what, f"{largest:.3f}", limit=limit, met=met)
        question = f"speed of {case.title} on the CPU, the fastest other setting"
        report.add_headline(question, fastest, "the default", ratio=others[fastest], goal=limit, met=met)


def _row(factor: str, name: str, found: Found, *, chosen: str) -> list[str]:
    speed, gain = spread([1 / seconds for seconds in found.seconds[name]]), found.gains[name]
    return [
        factor,
        name,
        f"{speed.median:.0f}",
        f"{speed.lower_quartile:.0f}..{speed.upper_quartile:.0f}",
        f"{gain.median:.3f}",
        ratio_text(*gain.median_interval),
        seconds_text(found.first_seconds[name]),
        chosen,
    ]


def _has_convolutions(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def _default_processes() -> int:
    """Ask how many processes have a worker for each core, and much to do; any data will do that are always there."""
    cores = usable_cores()
    config = recipe("digits-mlp").overridden([f"workers={cores}", "epochs=100000"])
    return choose_processes(None, [config], data_root=Path(), num_cores=cores, before=None).num_processes


def _progress(text: str, *, is_smoke: bool) -> None:
    if not is_smoke:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
