"""What does it cost to hold K workers in one process?

K models train side by side as the rows of one process, one thread: forward, backward, `local.step(row=v)`, `zero_grad`,
row after row, and a sync after every few steps. Speed: steps of all K rows alternate with steps of the same model trained
alone by plain PyTorch at the same batch size; the ratio of samples per second is formed for each round, its sync included.
The floor is the plain model. Memory: a fresh process for each K trains and reports what it holds between two steps, how
far memory peaks above that during a round (freed memory was given back before), and its peak as it comes. A worker should
add a bare copy of the model, which is measured too since its Python objects count, and its momentum; nothing else, for
activations and gradients exist for one row at a time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from _command import make_parser, parse
from _memory import can_measure, peak_growth_bytes, peak_resident_bytes, resident_bytes, trim
from _report import Report, bytes_text, ratio_text
from _timing import interleave, ratios, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from localsgd import Every, LocalSGD, replicate
from localsgd.lab.models import ImageInputs, build

SPEED_LIMIT = 0.95
MEMORY_LIMIT = 1.25
"""What a worker may add, over a bare copy of its model and its momentum; gradients of its own would make it about 1.5."""
NUM_BATCHES = 16
NUM_WARMUPS = 1
MEMORY_PERIOD = 2


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    model: str
    """Name of the model."""
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    workers: tuple[int, ...]
    """The values of K."""
    batch_size: int
    """Samples in the batch of one worker."""
    period: int
    """Steps from one sync to the next."""
    num_rounds: int
    """Rounds timed for the largest K; small ones get more."""
    seed: int = 0
    """Seed of weights and data."""


FULL = Scale(model="resnet20", image_shape=(3, 32, 32), workers=(1, 4, 16, 64), batch_size=32, period=4, num_rounds=5)
SMOKE = Scale(model="digits-cnn", image_shape=(1, 8, 8), workers=(1, 4), batch_size=8, period=2, num_rounds=2)


class Rows:
    """K workers in this process; ``num_workers=None`` is plain PyTorch without LocalSGD."""

    def __init__(self, scale: Scale, batches: list[tuple[Tensor, Tensor]], *, num_workers: int | None) -> None:
        model = build(scale.model, seed=scale.seed, inputs=ImageInputs(num_classes=10, image_shape=scale.image_shape))
        self.models: list[nn.Module] = [model] if num_workers is None else replicate(model, num_workers)
        self.optimizers = [SGD(m.parameters(), lr=1e-3, momentum=0.9, nesterov=True) for m in self.models]
        is_plain = num_workers is None
        self.local = None if is_plain else LocalSGD(self.models, self.optimizers, Every(scale.period))
        self._batches = _forever(batches)

    def step(self) -> None:
        """Take one step of every worker."""
        for row, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
            images, labels = next(self._batches)
            loss = cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
            if self.local is None:
                optimizer.step()
            else:
                self.local.step(row=row)
            optimizer.zero_grad(set_to_none=True)


def measure_speed(scale: Scale, num_workers: int) -> tuple[list[float], list[float]]:
    """Train plainly and in rows, by turns.

    Returns:
        Seconds a sample, one number a round: plain, and in rows.
    """
    batches = _batches(scale)
    plain, rows = Rows(scale, batches, num_workers=None), Rows(scale, batches, num_workers=num_workers)
    plain_steps = min(num_workers, 4)

    def train_plainly() -> None:
        for _ in range(plain_steps):
            plain.step()

    num_rounds = scale.num_rounds * max(1, min(4, 8 // num_workers))
    seconds = interleave(
        {"plain": train_plainly, "rows": rows.step},
        num_warmups=NUM_WARMUPS,
        num_repeats=num_rounds * scale.period,
        seed=scale.seed,
    )
    alone = _by_round(seconds["plain"], scale, samples=plain_steps * scale.batch_size)
    together = _by_round(seconds["rows"], scale, samples=num_workers * scale.batch_size)
    return alone, together


def measure_memory(scale: Scale, num_workers: int | None) -> tuple[int, int, int]:
    """Train for two rounds; belongs into a process of its own.

    Returns:
        Resident bytes: held between two steps, most above that during a round, and the peak as it comes.
    """
    torch.set_num_threads(1)
    rows = Rows(replace(scale, period=MEMORY_PERIOD), _batches(scale), num_workers=num_workers)

    def train() -> None:
        for _ in range(MEMORY_PERIOD):
            rows.step()

    train()
    as_it_comes = peak_resident_bytes()
    trim()
    held = resident_bytes()
    return held, peak_growth_bytes(train), as_it_comes


def measure_plain(scale: Scale, num_copies: int) -> tuple[tuple[int, int, int], float]:
    """Train plainly, then copy the bare model; belongs into a process of its own.

    Returns:
        What `measure_memory` gives, and the resident bytes that one copy adds: parameters, module buffers, and the Python
        objects around them.
    """
    found = measure_memory(scale, None)
    model = build(scale.model, seed=scale.seed, inputs=ImageInputs(num_classes=10, image_shape=scale.image_shape))
    trim()
    before = resident_bytes()
    copies = replicate(model, num_copies + 1)
    trim()
    return found, (resident_bytes() - before) / (len(copies) - 1)


def report_speed(report: Report, scale: Scale) -> None:
    """Measure and show samples per second for every K."""
    report.add_heading("Speed")
    rows, goals = [], []
    for num_workers in scale.workers:
        alone, together = measure_speed(scale, num_workers)
        ratio = ratios(alone, together)  # seconds a sample, so this is the ratio of samples a second
        rows.append(
            [
                str(num_workers),
                f"{1 / spread(alone).median:.0f}",
                f"{1 / spread(together).median:.0f}",
                f"{ratio.median:.3f}",
                ratio_text(ratio.lower_quartile, ratio.upper_quartile),
                ratio_text(ratio.lowest, ratio.highest),
                str(ratio.num_repeats),
            ]
        )
        goals.append((num_workers, ratio))
    header = ["K", "plain samples/s (floor)", "rows samples/s", "ratio", "quartiles", "min..max", "rounds"]
    report.add_table(header, rows)
    for num_workers, ratio in goals:
        what, limit = f"samples per second of K={num_workers} over plain training", f"at least {SPEED_LIMIT}"
        met = ratio.median >= SPEED_LIMIT
        report.add_goal(what, f"{ratio.median:.3f}", limit=limit, met=met)
        question = f"samples a second, {num_workers} workers in one process"
        report.add_headline(question, "localsgd rows", "one plain model", ratio=ratio, goal=limit, met=met)


def report_memory(report: Report, scale: Scale) -> None:
    """Measure and show resident memory for every K, beside the prediction."""
    report.add_heading("Memory")
    if not can_measure():
        report.add_text("This system does not tell the peak of resident memory (Linux with glibc does): not measured.")
        return
    parameters = _parameter_bytes(scale)
    first, last = scale.workers[0], scale.workers[-1]
    plain, copy = _in_new_process(measure_plain, scale, last)
    each = copy + parameters
    report.add_text(
        f"Predicted for each further worker: {bytes_text(each)}. A bare copy of the model takes {bytes_text(copy)}, "
        f"{bytes_text(parameters)} of it parameters, and momentum as much as the parameters. Gradients of its own would "
        f"take {bytes_text(parameters)} more."
    )
    found = {k: _in_new_process(measure_memory, scale, k) for k in scale.workers}
    rows = [_memory_row("plain", plain)]
    for k, figures in found.items():
        growth = (figures[0] - found[first][0]) / (k - first) if k > first else None
        rows.append(_memory_row(str(k), figures, growth=growth))
    header = ["K", "held", "growth a worker", "more in a round", "peak", "peak as it comes"]
    report.add_table(header, rows)
    peaks = {k: held + above for k, (held, above, _) in found.items()}
    growth = (peaks[last] - peaks[first]) / (last - first) / each
    report.add_goal(
        f"growth of the peak a worker, from K={first} to K={last}, over a bare copy and momentum",
        f"{growth:.2f}",
        limit=f"at most {MEMORY_LIMIT}",
        met=growth <= MEMORY_LIMIT,
    )


def _memory_row(name: str, figures: tuple[int, int, int], *, growth: float | None = None) -> list[str]:
    held, above, as_it_comes = figures
    cells = [name, bytes_text(held), "" if growth is None else bytes_text(growth)]
    return [*cells, bytes_text(above), bytes_text(held + above), bytes_text(as_it_comes)]


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--workers", type=int, nargs="+", metavar="K", help="default: 1 4 16 64; with --smoke: 1 4")
    parser.add_argument("--batch-size", type=int, metavar="B", help="default: 32; with --smoke: 8")
    parser.add_argument("--period", type=int, metavar="H", help="default: 4; with --smoke: 2")
    options = parse(parser)
    torch.set_num_threads(1)
    scale = SMOKE if options.smoke else FULL
    scale = replace(
        scale,
        workers=tuple(sorted(set(options.workers or scale.workers))),
        batch_size=options.batch_size or scale.batch_size,
        period=options.period or scale.period,
        num_rounds=options.repeats or scale.num_rounds,
        seed=options.seed,
    )
    if len(scale.workers) < 2 or scale.workers[0] < 1:
        parser.error(f"--workers {' '.join(map(str, scale.workers))} must name at least two numbers, each >= 1.")
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    report.add_text(f"{scale.model}, B={scale.batch_size} a worker, H={scale.period}, SGD with Nesterov momentum.")
    report_speed(report, scale)
    report_memory(report, scale)
    report.write(options.out)


def _batches(scale: Scale) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(scale.seed)
    shape = (scale.batch_size, *scale.image_shape)
    return [
        (torch.randn(shape, generator=generator), torch.randint(10, (scale.batch_size,), generator=generator))
        for _ in range(NUM_BATCHES)
    ]


def _forever(batches: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches


def _by_round(seconds: list[float], scale: Scale, *, samples: int) -> list[float]:
    """Turn seconds a block into seconds a sample, averaged over each round: any H steps in a row contain one sync."""
    starts = range(0, len(seconds), scale.period)
    return [sum(seconds[start : start + scale.period]) / scale.period / samples for start in starts]


def _parameter_bytes(scale: Scale) -> int:
    model = build(scale.model, seed=scale.seed, inputs=ImageInputs(num_classes=10, image_shape=scale.image_shape))
    return sum(parameter.nbytes for parameter in model.parameters())


def _in_new_process(measure: Callable[[Scale, Any], Any], scale: Scale, argument: int) -> Any:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, scale, argument).result()


if __name__ == "__main__":
    main()
