"""What a person sees of a run while it goes on: a bar on a terminal, a few plain lines elsewhere."""

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from localsgd.cli.formats import format_bytes, format_count, format_loss, format_score, format_seconds
from localsgd.cli.interruption import Interruption
from localsgd.lab.plan import RunPlan
from localsgd.lab.precision import describe_arithmetic
from localsgd.lab.tasks import find_score

__all__ = ["ProgressView"]

_SECONDS_BETWEEN_REFRESHES = 0.125
_MAX_LINES = 20


@final
class ProgressView:
    """Shows a run on stderr, and stops it when the user asks: a `localsgd.lab.listener.Listener`.

    Use it in a ``with`` statement around the run.

    Attributes:
        plan: What the run does; ``None`` until it begins.
    """

    def __init__(self, title: str, *, interruption: Interruption, is_shown: bool, warned: set[str]) -> None:
        """Show nothing yet.

        Args:
            title: What to call the run.
            interruption: Knows whether the user wants to stop.
            is_shown: Whether this process shows anything; one of many should.
            warned: Warnings that were shown for an earlier run, and are not shown again; those of this run are added.
        """
        self.plan: RunPlan | None = None
        self._title = title
        self._interruption = interruption
        self._warned = warned
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=not is_shown)
        # Rich would count a pipe as a terminal if FORCE_COLOR is set.
        self._has_terminal = self._console.file.isatty() and self._console.is_interactive
        self._bar = Progress(
            TextColumn(title),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("steps,"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            expand=True,
        )
        self._task = self._bar.add_task(title, total=None)
        self._facts = dict.fromkeys(("epoch", "loss", "score", "rounds", "bytes"), "")
        self._score_epoch = ""
        # Refreshed from `step`, in the thread that trains: no other thread is there to slow it down.
        self._live = Live(console=self._console, get_renderable=self._render, auto_refresh=False, transient=True)
        self._bytes_sent = 0
        self._last_refresh = 0.0
        self._next_line_step = 0
        self._due_step: int | None = None
        self._has_told_of_stop = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()
        self._interruption.is_deferred = False

    def begin(self, plan: RunPlan) -> None:
        """Say what the run will do, and show the bar. From now on an interruption waits to be asked for.

        Args:
            plan: What the run will do.
        """
        self.plan = plan
        self._interruption.is_deferred = True
        config = plan.config
        steps = f"{format_count(plan.num_steps, 'step')} of {config.workers} x {config.batch_size} samples"
        start = f", resumed after step {format_count(plan.first_step)}" if plan.first_step else ""
        rounds = "rounds as they come" if plan.num_syncs is None else format_count(plan.num_syncs, "round")
        arithmetic = f", {words}" if (words := describe_arithmetic(config)) else ""
        self._say(f"{self._title}: {steps}, {rounds}{arithmetic}{start}")
        self._bar.update(self._task, total=plan.num_steps, completed=plan.first_step)
        if self._has_terminal and not self._console.quiet:
            self._live.start(refresh=True)

    def step(self, step: int) -> None:
        """Move the bar, at most eight times a second; without a terminal print a line when one is due.

        Args:
            step: Steps taken so far.
        """
        self._say_what_is_due(step)
        now = time.monotonic()
        if self._live.is_started and now - self._last_refresh >= _SECONDS_BETWEEN_REFRESHES:
            self._last_refresh = now
            self._facts["epoch"] = self._epoch(step)
            self._bar.update(self._task, completed=step)
            self._live.refresh()

    def event(self, event: Mapping[str, Any]) -> None:
        """Take notice of what the record says.

        Args:
            event: What happened.
        """
        kind, facts = event["event"], self._facts
        # A line tells of its epoch, and not of the sync that comes with the next step.
        self._say_what_is_due(event["step"])
        if kind == "warning":
            self._warn(event["message"])
        elif kind == "sync":
            facts["rounds"] = format_count(event["round"], "round")
            self._bytes_sent += event["bytes_sent"]
            # What a resumed run sent before is not told.
            facts["bytes"] = (
                "" if self.plan is None or self.plan.first_step else f"{format_bytes(self._bytes_sent)} sent"
            )
        elif kind == "evaluation":
            found = find_score(event)
            facts["score"] = f"{found.title} {format_score(event[found.key], found)}"
            self._score_epoch = self._epoch(event["step"])
        elif kind == "epoch":
            facts["loss"] = f"loss {format_loss(event['train_loss'])}"
            self._plan_line(event["step"])

    def stop_wanted(self) -> bool:
        """Say whether the user has asked to stop.

        Returns:
            Whether a signal has arrived.
        """
        if self._interruption.was_wanted and not self._has_told_of_stop:
            self._has_told_of_stop = True
            self._say("stopping after the next sync; press Ctrl-C again to stop at once")
        return self._interruption.was_wanted

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Say that a run is finished.

        Args:
            summary: What came out.
        """
        self._live.stop()
        came = "finished" if self.plan is not None else "was finished before"
        found, seconds = find_score(summary), format_seconds(summary["wall_seconds"])
        self._say(f"{self._title}: {came}, {found.title} {format_score(summary[found.key], found)}, {seconds}")

    def _say(self, line: str) -> None:
        # What is no terminal has no width, and wraps nothing.
        self._console.print(line, soft_wrap=not self._has_terminal)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._say(f"warning: {message}")

    def _plan_line(self, step: int) -> None:
        """Order a line after this epoch, unless one was printed not long ago; an evaluation may still come before it."""
        if self.plan is None or self._live.is_started or step < self._next_line_step:
            return
        self._next_line_step = step + math.ceil(self.plan.num_steps / _MAX_LINES)
        self._due_step = step
        self._facts["epoch"] = self._epoch(step)

    def _epoch(self, step: int) -> str:
        return f"epoch {self.plan.epoch(step):.1f} of {self.plan.config.epochs:g}" if self.plan is not None else ""

    def _say_what_is_due(self, step: int) -> None:
        if self._due_step is not None and step > self._due_step:
            self._due_step = None
            self._say(f"{self._title}: {self._status()}")

    def _status(self) -> str:
        facts = dict(self._facts)
        if facts["score"] and self._score_epoch != facts["epoch"]:
            facts["score"] += f" ({self._score_epoch.partition(' of ')[0]})"
        return ", ".join(fact for fact in facts.values() if fact)

    def _render(self) -> Group:
        return Group(self._bar, Text(self._status(), style="dim", no_wrap=True, overflow="ellipsis"))
