"""How does the cost of one sync grow with the model, its tensors, the processes, and the rows of one process?

Synthetic models of float32, from 0.27 million values to a billion, are averaged by processes on this machine, one thread
each, joined by Gloo over the loopback. The floor is one raw `all_reduce` of the same vector, in the same memory. Sizes: each
in 10 and in 1,000 tensors, 2 processes. Tensors: 10 million values, cut into 10 to 10,000. Processes: 2 to 16, 10 million
values. Rows: 1 to 1,024 models of 65 tensors and 0.27 million values in one process without a network; their floor is
`matrix.copy_(matrix.mean(0))` of one (V, P) tensor. A repetition times one sync of every contestant in an order drawn anew,
each after a barrier; it takes as long as in its slowest process, and ratios are formed within each repetition.

A cost that is linear in bytes has slope 1 on log axes as soon as the fixed part no longer matters; both are fitted. What
does not fit into the memory that is free is left out, with the reason. More processes than cores take turns: the floor then
measures the scheduler as much as the network, for both alike. Pictures are drawn where a page is written (`--out`), beside
it; bars hold half of the repetitions.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from _command import make_parser, parse
from _growth import fit_linear, fit_slope
from _pictures import Curve, draw_growth
from _processes import run_in_processes
from _report import Report, ratio_text, seconds_text
from _scale_points import FLOOR, Group, Model, available_bytes, measure_group, measure_rows
from _timing import Spread, ratios, spread
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

RATIO_LIMIT = 1.10
SLOPE_REACH = 0.10
"""How far from 1 a slope may be: caches end within the range of sizes, and a rate that halves there bends it by 0.1."""
LARGE_VALUES = 10_000_000
"""From here on the fixed part is below a tenth of the cost."""
FEW, MANY = 10, 1000
MEMORY_FACTOR, OVERHEAD_BYTES = 1.2, 400 << 20
"""What a process takes: a multiple of its models, measured, and something beside them."""
TIMEOUT_SECONDS = 900
PARTS = ("size", "tensors", "processes", "rows")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    sizes: Mapping[int, int]
    """Repetitions for each number of values."""
    tensors: tuple[int, ...]
    """Numbers of tensors that the middling model is cut into."""
    processes: Mapping[int, int]
    """Repetitions for each number of processes."""
    rows: Mapping[int, int]
    """Repetitions for each number of rows."""
    num_values: int
    """Values of the middling model."""
    row: Model
    """What a row holds."""
    num_repeats: int
    """Repetitions for the numbers of tensors."""


FULL = Scale(
    sizes={272_474: 101, 1_000_000: 51, 10_000_000: 21, 100_000_000: 9, 1_000_000_000: 7},
    tensors=(10, 100, 1000, 10_000),
    processes={2: 21, 4: 15, 8: 11, 16: 7},
    rows={1: 201, 4: 101, 16: 51, 64: 21, 256: 11, 1024: 7},
    num_values=10_000_000,
    row=Model(num_values=272_474, num_tensors=65),
    num_repeats=21,
)
SMOKE = Scale(
    sizes={10_000: 3, 100_000: 3},
    tensors=(10, 100),
    processes={2: 3},
    rows={1: 3, 4: 3},
    num_values=100_000,
    row=Model(num_values=1_000, num_tensors=5),
    num_repeats=3,
)

Timed = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every part is given."""

    report: Report
    """Where tables go."""
    scale: Scale
    """How much is measured."""
    page: Path | None
    """The page that will be written; pictures go beside it."""
    seed: int
    """Seed of the orders."""
    repeats: int | None
    """Repetitions, where they were asked for."""

    def group(self, models: Sequence[Model], num_repeats: int) -> Group:
        """Make a group of models that are timed in turn."""
        return Group(models=tuple(models), num_repeats=self.repeats or num_repeats, seed=self.seed)

    def run(self, group: Group, num_processes: int) -> Timed | None:
        """Measure a group, if there is memory for it: seconds in the slowest process."""
        if not self.fits(group, num_processes):
            return None
        try:
            found = run_in_processes(measure_group, num_processes, group, timeout_seconds=TIMEOUT_SECONDS)
        except (ProcessExitedException, ProcessRaisedException, TimeoutError) as error:
            # Killed where memory ends, or too slow: what was measured before is kept.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self.report.add_text(f"left out: {_describe(group, num_processes)}: {reason}.")
            return None
        return {name: [max(repeat) for repeat in zip(*(one[name] for one in found), strict=True)] for name in found[0]}

    def fits(self, group: Group, num_processes: int) -> bool:
        """Say, here and on the page, where there is too little memory."""
        needed, free = num_processes * (group.num_bytes * MEMORY_FACTOR + OVERHEAD_BYTES), available_bytes()
        if free is None or needed <= free:
            return True
        lack = f"{needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free"
        self.report.add_text(f"left out: {_describe(group, num_processes)}: {lack}.")
        return False

    def draw(self, part: str, curves: Sequence[Curve], *, title: str, size: str) -> None:
        """Draw a picture beside the page."""
        if self.page is not None and len(curves[0].sizes) > 1:
            path = self.page.with_name(f"{self.page.stem}-{part}.svg")
            draw_growth(path, curves, title=title, size=size)
            self.report.add_picture(path.name, title)


def measure_sizes(task: Task) -> None:
    """Show the cost against the number of values."""
    task.report.add_heading("Size of the model, 2 processes")
    by_size = {
        size: task.run(
            task.group([Model(num_values=size, num_tensors=FEW), Model(num_values=size, num_tensors=MANY)], repeats), 2
        )
        for size, repeats in task.scale.sizes.items()
    }
    sizes = [size for size, one in by_size.items() if one is not None]
    found = [one for one in by_size.values() if one is not None]
    if not found:
        return
    few, many, floor = ([spread(one[name]) for one in found] for name in ("0", "1", FLOOR))
    header = ["values", f"{FEW} tensors", "ratio to floor", "quartiles"]
    header += [f"{MANY:,} tensors", "ratio to floor", "quartiles", "floor"]
    rows = [
        [f"{size:,}", *_cells(one, "0"), *_cells(one, "1"), seconds_text(bottom.median)]
        for size, one, bottom in zip(sizes, found, floor, strict=True)
    ]
    task.report.add_table(header, rows)
    curves = [
        _curve(f"localsgd, {FEW} tensors", sizes, few),
        _curve(f"localsgd, {MANY:,} tensors", sizes, many),
        _curve("raw all_reduce (floor)", sizes, floor, is_floor=True),
    ]
    title = "One sync against the size of the model (2 processes, loopback)"
    task.draw("size", curves, title=title, size="values in the model (float32)")
    _judge_growth(task.report, sizes, few, floor=floor)
    _judge_ratio(task.report, f"{sizes[-1]:,} values in {FEW} tensors, 2 processes", found[-1])


def measure_tensors(task: Task) -> None:
    """Show the cost against the number of tensors."""
    num_values, counts = task.scale.num_values, task.scale.tensors
    task.report.add_heading(f"Number of tensors, {num_values:,} values, 2 processes")
    models = [Model(num_values=num_values, num_tensors=count) for count in counts]
    group = task.group(models, task.scale.num_repeats)
    found = task.run(group, 2)
    if found is None:
        return
    names = [str(index) for index in range(len(counts))]
    floor = spread(found[FLOOR])
    rows = [[f"{FLOOR}: raw all_reduce", seconds_text(floor.median), "1.00", "", ""]]
    for name, count in zip(names, counts, strict=True):
        beside = ratios(found[name], found["0"])
        rows.append([f"{count:,}", *_cells(found, name), f"{beside.median:.2f}"])
    task.report.add_table(["tensors", "median", "ratio to floor", "quartiles", f"to {counts[0]} tensors"], rows)
    curves = [
        _curve("localsgd", counts, [spread(found[name]) for name in names]),
        _curve("raw all_reduce (floor)", counts, [floor] * len(counts), is_floor=True),
    ]
    title = f"One sync against the number of tensors ({num_values:,} values, 2 processes)"
    task.draw("tensors", curves, title=title, size="tensors that the model is cut into")
    last = ratios(found[names[-1]], found["0"])
    what, limit = f"{counts[-1]:,} tensors / {counts[0]} tensors", f"at most {RATIO_LIMIT:.2f}"
    met = last.median <= RATIO_LIMIT
    task.report.add_goal(f"time of one sync, {what}", f"{last.median:.3f}", limit=limit, met=met)
    question = f"time of one sync, {num_values:,} values"
    mine, other = f"localsgd, {counts[-1]:,} tensors", f"localsgd, {counts[0]} tensors"
    task.report.add_headline(question, mine, other, ratio=last, goal=limit, met=met)


def measure_processes(task: Task) -> None:
    """Show the cost against the number of processes."""
    num_values = task.scale.num_values
    task.report.add_heading(f"Number of processes, {num_values:,} values")
    found: dict[int, Timed] = {}
    for num_processes, repeats in task.scale.processes.items():
        one = task.run(task.group([Model(num_values=num_values, num_tensors=FEW)], repeats), num_processes)
        if one is not None:
            found[num_processes] = one
    if not found:
        return
    _present(task, found, size="processes", about=f"{num_values:,} values", floor="raw all_reduce (floor)")
    last = max(found)
    _judge_ratio(task.report, f"{num_values:,} values, {last} processes", found[last])


def measure_all_rows(task: Task) -> None:
    """Show the cost against the number of rows of one process."""
    row = task.scale.row
    task.report.add_heading(f"Rows of one process, {row.num_values:,} values in {row.num_tensors} tensors each")
    repeats = {
        num_rows: task.repeats or num_repeats
        for num_rows, num_repeats in task.scale.rows.items()
        if task.fits(Group(models=(row,) * 2 * num_rows, num_repeats=1, seed=0), 1)
    }
    if not repeats:
        return
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        found: dict[int, Timed] = pool.submit(measure_rows, row, repeats, task.seed).result()
    about = f"{row.num_values:,} values each, one process"
    _present(task, found, size="rows", about=about, floor="mean of a (V, P) tensor (floor)")
    last = max(found)
    _judge_ratio(task.report, f"{last:,} rows of one process", found[last], reference="raw mean of a (V, P) tensor")


def _present(task: Task, found: Mapping[int, Timed], *, size: str, about: str, floor: str) -> None:
    rows = [[f"{count:,}", *_cells(one, "0"), seconds_text(spread(one[FLOOR]).median)] for count, one in found.items()]
    task.report.add_table([size, "localsgd", "ratio to floor", "quartiles", floor], rows)
    ours, floors = ([spread(one[name]) for one in found.values()] for name in ("0", FLOOR))
    curves = [_curve("localsgd", list(found), ours), _curve(floor, list(found), floors, is_floor=True)]
    title = f"One sync against the number of {size} ({about})"
    task.draw(size, curves, title=title, size=size)
    if len(found) > 1:
        slopes = [fit_slope(list(found), [one.median for one in which]) for which in (ours, floors)]
        task.report.add_text(f"Slope on log axes: {slopes[0]:.2f}; of the floor: {slopes[1]:.2f}.")


def _judge_growth(report: Report, sizes: Sequence[int], ours: Sequence[Spread], *, floor: Sequence[Spread]) -> None:
    if len(sizes) < 2:
        return  # nothing grows
    for name, found in (("localsgd", ours), ("raw all_reduce", floor)):
        medians = [one.median for one in found]
        line = fit_linear([4 * size for size in sizes], medians)
        report.add_text(
            f"{name}: {seconds_text(line.fixed_seconds)} + bytes / ({line.bytes_per_second / 1e9:.2f} GB/s), at most "
            f"{line.worst_error:.0%} from each point; slope on log axes {fit_slope(sizes, medians):.3f}."
        )
    large = [(size, one.median) for size, one in zip(sizes, ours, strict=True) if size >= LARGE_VALUES]
    if len(large) > 1:
        slope = fit_slope(*map(list, zip(*large, strict=True)))
        what = f"slope of log time over log bytes, from {large[0][0]:,} to {large[-1][0]:,} values"
        met = abs(slope - 1) <= SLOPE_REACH
        report.add_goal(what, f"{slope:.3f}", limit=f"1, within {SLOPE_REACH}", met=met)


def _judge_ratio(report: Report, what: str, found: Timed, *, reference: str = "raw all_reduce") -> None:
    ratio = ratios(found["0"], found[FLOOR])
    limit, met = f"at most {RATIO_LIMIT:.2f}", ratio.median <= RATIO_LIMIT
    report.add_goal(f"localsgd / {reference}, {what}", f"{ratio.median:.3f}", limit=limit, met=met)
    report.add_headline(f"time of one sync, {what}", "localsgd", reference, ratio=ratio, goal=limit, met=met)


def _cells(found: Timed, name: str) -> list[str]:
    ratio = ratios(found[name], found[FLOOR])
    median = seconds_text(spread(found[name]).median)
    return [median, f"{ratio.median:.2f}", ratio_text(ratio.lower_quartile, ratio.upper_quartile, digits=2)]


def _curve(name: str, sizes: Sequence[int], found: Sequence[Spread], *, is_floor: bool = False) -> Curve:
    return Curve(
        name=name,
        sizes=sizes,
        seconds=[one.median for one in found],
        low=[one.lower_quartile for one in found],
        high=[one.upper_quartile for one in found],
        is_floor=is_floor,
    )


def _describe(group: Group, num_processes: int) -> str:
    return f"{group.num_bytes / 2**20:,.0f} MiB of models in each of {num_processes} processes"


MEASUREMENTS = dict(zip(PARTS, (measure_sizes, measure_tensors, measure_processes, measure_all_rows), strict=True))


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    options = parse(parser)
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    task = Task(
        report=report,
        scale=SMOKE if options.smoke else FULL,
        page=options.out,
        seed=options.seed,
        repeats=options.repeats,
    )
    for part in options.parts:
        MEASUREMENTS[part](task)
    report.write(options.out)


if __name__ == "__main__":
    main()
