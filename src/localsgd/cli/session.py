"""What `train`, `compare` and `tune` have in common: the processes, the device, interruptions, and one run after another."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import final

import torch
import typer

from localsgd._checks import require
from localsgd.cli.advice import how_to_continue, names_folder
from localsgd.cli.ending import end_together
from localsgd.cli.interruption import Interruption
from localsgd.cli.launch import Launch, choose_device, joined, read_launch
from localsgd.cli.options import RunOptions
from localsgd.cli.pool import Pool
from localsgd.cli.progress import ProgressView
from localsgd.cli.workload import choose_processes, latest_checkpoint, parse_processes, processes_before
from localsgd.communicators import Communicator
from localsgd.lab.config import RunConfig
from localsgd.lab.cores import usable_cores
from localsgd.lab.engine.allocator import keep_freed_memory
from localsgd.lab.interrupted import Interrupted
from localsgd.lab.listener import Listener
from localsgd.lab.plan import RunPlan
from localsgd.lab.trainer import train

__all__ = ["Session", "opened"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Trains one configuration after another on the same processes."""

    folder: Path
    """Where to write, the same on every process."""

    data_root: Path
    """Where data sets lie."""

    device: torch.device
    """What this process computes on."""

    launch: Launch | None
    """Place of this process, if a launcher started it."""

    communicator: Communicator
    """The processes."""

    interruption: Interruption
    """Knows whether the user wants to stop."""

    warned: set[str]
    """Warnings that were shown; a second run does not repeat them."""

    advice: str
    """The command that goes on where this one stops."""

    @property
    def speaks(self) -> bool:
        """Whether this process is the one that prints."""
        return self.communicator.rank == 0

    def run(self, config: RunConfig, folder: Path, *, resume: bool, title: str | None = None) -> dict[str, object]:
        """Train one configuration.

        Args:
            config: What to train.
            folder: Where to write.
            resume: Whether to go on with the run that is there.
            title: What to call the run; ``None`` for its algorithm.

        Returns:
            The summary.

        Raises:
            Exit: If the user stopped it; the message is out.
            LocalSGDError: If it did not work.
        """
        title = config.algorithm if title is None else title
        view = ProgressView(title, interruption=self.interruption, is_shown=self.speaks, warned=self.warned)
        listener = _WithoutLastWords(view)
        with view, listener:
            try:
                summary = train(
                    config,
                    data_root=self.data_root,
                    device=self.device,
                    out=folder,
                    resume=resume,
                    communicator=self.communicator,
                    listener=listener,
                )
            except Interrupted as error:
                step = error.step
            else:
                view.conclude(summary)
                return summary
        num_steps = step if view.plan is None else view.plan.num_steps
        message = f"interrupted at step {step} of {num_steps}; continue with: {self.advice}"
        end_together(message, self.launch)
        raise typer.Exit(self.interruption.exit_status)


@final
class _WithoutLastWords:
    """A listener that passes everything on, a warning not before the next word, and not if it is what ended the run.

    A run that diverges records why as a warning, and raises the same: people should read it once.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._warning: Mapping[str, object] | None = None

    def __enter__(self) -> None:
        """Nothing is held back yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._warning is not None and self._warning["message"] != str(error):
            self._pass_on()

    def begin(self, plan: RunPlan) -> None:
        self._pass_on()
        self._listener.begin(plan)

    def step(self, step: int) -> None:
        self._pass_on()
        self._listener.step(step)

    def event(self, event: Mapping[str, object]) -> None:
        self._pass_on()
        if event["event"] == "warning":
            self._warning = event
        else:
            self._listener.event(event)

    def stop_wanted(self) -> bool:
        self._pass_on()
        return self._listener.stop_wanted()

    def _pass_on(self) -> None:
        if self._warning is not None:
            warning, self._warning = self._warning, None
            self._listener.event(warning)


@contextlib.contextmanager
def opened(options: RunOptions, *, arguments: Sequence[str], configs: Sequence[RunConfig]) -> Iterator[Session]:
    """Join the processes of this launch, if there is one, and answer interruptions until the end.

    On a CPU and without a launcher the work may be better done by several processes. Then these are started, all is done
    there, and nothing is left to do here.

    Args:
        options: What was asked for.
        arguments: What was typed after the program's name.
        configs: What will be trained.

    Yields:
        The session.

    Raises:
        ArgumentError: If the device is not there, the folder is not named, the processes cannot find each other, or there
            cannot be as many as are asked for.
        Exit: If it was interrupted at once, with the message out; or if other processes have done it all.
    """
    launch = read_launch()
    found = choose_device(options.device, launch)
    folder = options.folder(datetime.now().astimezone())
    with Interruption(is_heard=launch is None or launch.rank == 0) as interruption:
        if found.type == "cpu":
            keep_freed_memory()
        num_processes = _choose(options, configs, launch=launch, device=found, folder=folder)
        if num_processes == 1:
            with joined(launch, found) as communicator:
                folder = communicator.gather(folder)[0]
                yield Session(
                    folder=folder,
                    data_root=options.root,
                    device=found,
                    launch=launch,
                    communicator=communicator,
                    interruption=interruption,
                    warned=set(),
                    advice=how_to_continue(
                        arguments, folder, is_under_torchrun=launch is not None and not launch.is_pool
                    ),
                )
            return
    raise typer.Exit(_run_in_pool(arguments, folder, num_processes=num_processes))


def _choose(
    options: RunOptions, configs: Sequence[RunConfig], *, launch: Launch | None, device: torch.device, folder: Path
) -> int:
    """Choose how many processes to start, and say so if there are several; 1 starts none."""
    wanted = parse_processes(options.processes)
    if launch is not None and launch.is_pool:
        return 1
    if launch is not None or device.type != "cpu":
        place = f"--device {device.type}" if launch is None else "torchrun, which has started its own"
        require(
            wanted is None or (launch is None and wanted == 1),
            f"--processes={wanted} has no meaning with {place}; leave it out.",
        )
        return 1
    num_cores = usable_cores()
    choice = choose_processes(
        wanted,
        configs,
        data_root=options.root,
        num_cores=num_cores,
        before=processes_before(folder) if options.resume else None,
    )
    if choice.num_processes > 1:
        num_threads = _num_threads(choice.num_processes)
        print(choice.describe(configs[0].workers, num_threads), file=sys.stderr, flush=True)
    elif torch.get_num_threads() > num_cores:
        torch.set_num_threads(num_cores)
    return choice.num_processes


def _num_threads(num_processes: int) -> int:
    return max(1, usable_cores() // num_processes)


def _run_in_pool(arguments: Sequence[str], folder: Path, *, num_processes: int) -> int:
    """Let other processes run the command; give its exit status."""
    given = [*arguments] if names_folder(arguments) else [*arguments, "--out", str(folder)]
    pool = Pool(given, num_processes=num_processes, num_threads=_num_threads(num_processes))
    status = pool.run()
    if pool.killed is not None:
        rank, name = pool.killed
        latest = latest_checkpoint(folder)
        advice = how_to_continue(arguments, folder, is_under_torchrun=False)
        if latest is not None:
            rest = f"go on from {latest.name} with: {advice}"
        elif any(folder.rglob("config.json")):
            rest = f"nothing was saved: begin anew with: {advice}"
        else:
            rest = "nothing was begun: give the same command again."
        print(f"error: process {rank} of {num_processes} was killed by {name}; {rest}", file=sys.stderr, flush=True)
    return status
