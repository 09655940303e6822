"""The command `localsgd convex`."""

import contextlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from localsgd._checks import require, require_at_least
from localsgd.cli.advice import how_to_continue
from localsgd.cli.convex_view import ConvexView
from localsgd.cli.formats import format_seconds
from localsgd.cli.interruption import Interruption
from localsgd.cli.options import DataRoot, Json, data_root_or_default, out_option
from localsgd.errors import ArgumentError, DataError
from localsgd.lab.convex import COMMUNICATION, Study, StudyConfig, report, run_study
from localsgd.lab.convex.page import tables, whole_page
from localsgd.lab.convex.study import JOURNAL
from localsgd.lab.cores import usable_cores
from localsgd.lab.data import FeatureSet, load
from localsgd.lab.json_files import write_json, write_whole

__all__ = ["app", "convex_command"]

app = typer.Typer()

_DATA = "w8a"
_RESULT, _PICTURE = "study.json", "speedup"
_DEFAULTS = StudyConfig()
_WORKERS, _PERIODS, _BATCH_SIZES, _SEEDS = (
    ",".join(map(str, numbers))
    for numbers in (_DEFAULTS.workers, _DEFAULTS.periods, _DEFAULTS.batch_sizes, _DEFAULTS.seeds)
)

_Workers = Annotated[str, typer.Option("--workers", metavar="K,K,...", help="Numbers of workers.")]
_Periods = Annotated[str, typer.Option("--periods", metavar="H,H,...", help="Numbers of steps between two syncs.")]
_BatchSizes = Annotated[
    str, typer.Option("--batch-sizes", metavar="B,B,...", help="Numbers of samples of one worker in one step.")
]
_Seeds = Annotated[
    str, typer.Option("--seeds", metavar="S,S,...", help="Samples are drawn with each; the mean over them counts.")
]
_Target = Annotated[float, typer.Option("--target", metavar="EPS", help="How far above the minimum is near enough.")]
_MaxGradients = Annotated[
    int,
    typer.Option("--max-gradients", metavar="N", help="Gradients of one worker after which it counts as not arriving."),
]
_Communication = Annotated[
    float,
    typer.Option("--communication", metavar="C", help="What a sync costs, in gradients. --resume can change it."),
]
_TrainLimit = Annotated[
    int | None, typer.Option("--train-limit", metavar="N", help="Keep only N samples, always the same ones.")
]
_Processes = Annotated[
    int | None,
    typer.Option("--processes", metavar="N", help="Combinations that are searched at once; default: one a core."),
]
_Out = Annotated[Path | None, out_option("runs/convex-DATE-TIME")]
_Resume = Annotated[bool, typer.Option("--resume", help="Keep the finished combinations in --out, search the others.")]
_Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.md", help="Also write a page of all results there, its picture beside it."),
]


@app.command("convex")
def convex_command(
    context: typer.Context,
    *,
    workers: _Workers = _WORKERS,
    periods: _Periods = _PERIODS,
    batch_sizes: _BatchSizes = _BATCH_SIZES,
    seeds: _Seeds = _SEEDS,
    target: _Target = _DEFAULTS.target,
    max_gradients: _MaxGradients = _DEFAULTS.max_gradients,
    communication: _Communication = COMMUNICATION,
    train_limit: _TrainLimit = None,
    processes: _Processes = None,
    data_root: DataRoot = None,
    out: _Out = None,
    resume: _Resume = False,
    report_file: _Report = None,
    as_json: Json = False,
) -> None:
    """Measure how much sooner local SGD on K workers solves logistic regression on w8a, in gradients."""
    config = StudyConfig(
        workers=_whole_numbers("--workers", workers),
        periods=_whole_numbers("--periods", periods),
        batch_sizes=_whole_numbers("--batch-sizes", batch_sizes),
        seeds=_whole_numbers("--seeds", seeds),
        target=target,
        max_gradients=max_gradients,
    )
    require(0 <= communication < float("inf"), f"--communication={communication} must be a number of gradients >= 0.")
    num_processes = usable_cores() if processes is None else processes
    require_at_least("--processes", num_processes, 1)
    require(out is not None or not resume, "--resume needs --out DIR, the folder of the study to go on with.")
    _require_free(report_file)
    start = datetime.now(UTC)
    folder = out or Path("runs") / f"convex-{start.astimezone():%Y%m%d-%H%M%S}"
    typed: tuple[str, ...] = context.obj["arguments"]
    advice = how_to_continue(typed, folder, is_under_torchrun=False)
    with Interruption() as interruption, _saying_how_to_continue(interruption, folder, advice=advice):
        data = _load(data_root_or_default(data_root), train_limit)
        begun, begun_computing = time.monotonic(), _processor_seconds()
        with ConvexView(interruption) as view:
            study = run_study(config, data, folder, watcher=view, num_processes=num_processes, resume=resume)
        seconds, computing = time.monotonic() - begun, _processor_seconds() - begun_computing
        if not study.is_complete:
            view.say(
                f"interrupted after {len(study.results)} of {len(config.cells)} combinations; continue with: {advice}"
            )
            raise typer.Exit(interruption.exit_status)
        write_json(folder / _RESULT, report(study, communication=communication))
        pictures = _draw(study, folder, stem=_PICTURE, communication=communication)
        if report_file is not None:
            picture = _draw(study, report_file.parent, stem=report_file.stem, communication=communication)[0]
            facts = {
                "Date": f"{start:%Y-%m-%d %H:%M} UTC",
                "Command": f"`localsgd {shlex.join(typed)}`",
                "Versions": _versions(),
                "Time it took": f"{format_seconds(seconds)}, {format_seconds(computing)} of a core, on {_machine()}",
                "Combinations at once": str(num_processes),
            }
            page = whole_page(study, facts, communication=communication, picture=picture.name)
            write_whole(report_file, page.encode())
    if as_json:
        print(json.dumps(report(study, communication=communication), indent=2))
        return
    print(tables(study, communication=communication))
    print(f"\nresults: {folder / _RESULT}\npicture: {pictures[0]}")


def _whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ArgumentError(f"{flag}={text} must be whole numbers, separated by commas.") from None


def _require_free(path: Path | None) -> None:
    """Find out before the work whether its page can be written."""
    if path is not None and path.exists():
        raise DataError(f"{path} exists already, and was not touched; choose another --report.")
    if path is not None and not path.parent.is_dir():
        raise DataError(f"{path.parent} is not a folder; make it, or choose another --report.")


def _load(root: Path, train_limit: int | None) -> FeatureSet:
    data = load(_DATA, root, train_limit=train_limit)
    if not isinstance(data, FeatureSet):
        raise DataError(f"{_DATA} does not hold rows of features.")
    return data


def _draw(study: Study, folder: Path, *, stem: str, communication: float) -> tuple[Path, ...]:
    from localsgd.lab.convex.figure import draw, save  # noqa: PLC0415 -- no other command should wait for matplotlib

    try:
        return save(draw(study, communication=communication), folder, stem=stem)
    except OSError as error:
        raise DataError(
            f"the pictures in {folder} could not be written ({error.strerror}); check that there is room, then resume."
        ) from error


@contextlib.contextmanager
def _saying_how_to_continue(interruption: Interruption, folder: Path, *, advice: str) -> Iterator[None]:
    """Answer an interruption that breaks off something other than the search, if the study has begun."""
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / JOURNAL).exists():
            raise
        print(f"interrupted; continue with: {advice}", file=sys.stderr, flush=True)
        raise typer.Exit(interruption.exit_status) from None


def _versions() -> str:
    packages = (f"{name} {metadata.version(name)}" for name in ("localsgd", "torch", "numpy"))
    return ", ".join((f"Python {platform.python_version()}", *packages))


def _machine() -> str:
    return f"{usable_cores()} cores, {platform.machine()}, {platform.system()}"


def _processor_seconds() -> float:
    """Count what this process and those that it has started and seen end have computed."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
