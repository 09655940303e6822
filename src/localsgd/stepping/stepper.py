"""One step on every row: alone, or together with the mean gradient; then the clock, then a sync if it is due."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, final

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer

from localsgd._checks import require, require_at_least
from localsgd.averaging.optimizer_state import OptimizerState
from localsgd.errors import StateError
from localsgd.gradients.mean import unscale_
from localsgd.gradients.rounds import Staging
from localsgd.reports import SyncKind
from localsgd.schedules import Schedule
from localsgd.stepping.clock import Clock
from localsgd.stepping.observer import Observer
from localsgd.stepping.watch import Watch
from localsgd.synchronizer import Synchronizer

__all__ = ["OneStepRounds", "Stepper"]

Closure = Callable[[], Any]
OneStepRounds = Literal["gradients", "parameters"]


@final
class Stepper:
    """Steps the optimizers of this process and keeps the clock.

    Attributes:
        clock: Steps taken and the rounds they belong to.
        replica_level: Outermost level in whose blocks all workers are still alike, optimizer state included; 0 for none. So
            long, rounds of one step at that level average gradients instead of parameters.
        is_reading: Whether the rows hold the consensus model for reading, so that nothing may step.
        gradients: Averages gradients in rounds of one step.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        synchronizer: Synchronizer,
        *,
        schedules: tuple[Schedule, ...],
        averages_gradients: bool,
        optimizer_state: OptimizerState,
        clip_norm: float | None,
    ) -> None:
        """Stand before the first step.

        Args:
            models: One module a row.
            optimizers: One optimizer a row.
            synchronizer: What carries out syncs.
            schedules: When to sync at each level, innermost first.
            averages_gradients: Whether rounds of one step average gradients.
            optimizer_state: What to do with the optimizers' own state at a sync of parameters.
            clip_norm: Largest norm of the gradient that enters an optimizer step; ``None`` does not clip.
        """
        self._models, self._optimizers, self._synchronizer = models, optimizers, synchronizer
        self.gradients, self._late = synchronizer.gradients, synchronizer.late
        self._num_levels, self._clip_norm = len(schedules), clip_norm
        self._optimizer_state = optimizer_state
        self._turn = 0
        self._observer = Observer(optimizers[0], synchronizer.ledger)
        self._watch = Watch(schedules[-1], len(models))
        self.clock = Clock(schedules, self._observer.observation())
        self.is_reading = False
        # LBFGS calls its closure as often as it likes, which may differ between workers: it never averages gradients.
        self._may_be_replicas = averages_gradients and not any(isinstance(own, LBFGS) for own in optimizers)
        self.replica_level = self._num_levels if self._may_be_replicas else 0
        self._scaler: torch.amp.GradScaler | None = None
        self._expect()

    def step(
        self, closure: Closure | None, scaler: torch.amp.GradScaler | None, *, row: int | None, num_samples: float
    ) -> Any:
        """Step one row or all of them; see `LocalSGD.step`.

        Args:
            closure: Reevaluates the model, or ``None``.
            scaler: The GradScaler of the loop, or ``None``.
            row: The row to step, or ``None`` for all.
            num_samples: Samples in each row's batch.

        Returns:
            What the optimizer of the last row returned.
        """
        if closure is not None:
            require(
                len(self._models) == 1, "closure cannot be combined with several rows; call step(row=...) for each."
            )
            self._require_no_clipping()
        if self._turn == 0:
            self._observer.read()  # before a scheduler changes it
        level = self._gradient_level
        if level and closure is None:
            return self._step_together(scaler, level=level, row=row)
        if level:
            result = self._optimizers[0].step(self.before(closure))
            self.after()
            return result
        result = None
        for index in self._take_turn(row):
            result = self._step_alone(index, closure, scaler)
            self._watch.add(index, num_samples)
        if self._turn == 0:
            self._tick()
        return result

    def before(self, closure: Closure | None) -> Closure | None:
        """Prepare a single row for an ``optimizer.step`` that somebody else calls.

        Args:
            closure: The closure of that step, or ``None``.

        Returns:
            The closure to use instead.
        """
        self.require_idle("optimizer.step()")
        self._observer.read()
        if closure is not None:
            self._require_no_clipping()
        if not self._gradient_level:
            self._clip(0)
            return closure
        if closure is None:
            self._average_single_row()
            return None

        def averaging_closure() -> Any:
            with torch.enable_grad():
                result = closure()
            self._average_single_row()
            return result

        return averaging_closure

    def after(self) -> None:
        """Count the step that somebody else has just taken, and sync if it is due."""
        level = self._gradient_level
        if level:
            self._conclude_together(level)
        else:
            self._watch.add(0, 1)
            self._tick()

    @property
    def averages_gradients(self) -> bool:
        """Whether the coming step averages gradients first, so that it has to be taken through `step`."""
        return self._gradient_level > 0

    def count(self, num_steps: int) -> None:
        """Count steps that somebody else has taken on every row of this process, and sync if it is due after the last.

        Args:
            num_steps: How many; the sync that comes next must not be due before the last of them.

        Raises:
            ArgumentError: If there are too many.
            StateError: If gradients had to be averaged first, or some rows have stepped and others have not.
        """
        self.require_idle("count()")
        if self.averages_gradients:
            raise StateError("count() came for a step that averages gradients first; take it with step().")
        require_at_least("num_steps", num_steps, 1)
        due = self.clock.steps + 1 if self._watch.is_watching else self.next_event
        require(
            due is None or self.clock.steps + num_steps <= max(due, self.clock.steps + 1),
            f"num_steps={num_steps} after step {self.clock.steps} would miss the end of the round after step {due}; count "
            "up to there first.",
        )
        self._observer.read()
        for row in range(len(self._models)):
            self._watch.add(row, num_steps)
        for _ in range(num_steps):
            self._tick()

    def count_round(self, take: Callable[[], object] | None = None, *, is_last: bool = True) -> None:
        """Count a round of one step whose gradients somebody else has staged together or, in a single process, averaged.

        Args:
            take: Steps all rows with the mean, called as soon as that is there; ``None`` if they have stepped already.
            is_last: Whether the rows are now as this step left them, so that the outer optimizer may look at them.

        Raises:
            StateError: If no gradients are averaged now.
        """
        self.require_idle("count_round()")
        if not self.averages_gradients:
            raise StateError("count_round() came for a step that averages no gradients; use count().")
        self._observer.read()
        level = self._gradient_level
        self._average_gradients(level, staged="together" if take else "averaged")
        if take is not None:
            take()
        self._conclude_together(level, has_stepped=is_last)

    def sync_parameters(self, kind: SyncKind, *, level: int) -> None:
        """Average the parameters and begin a new round.

        Args:
            kind: Why.
            level: Level of the topology.
        """
        excluded = self._synchronizer.average_parameters(
            step=self.clock.steps,
            level=level,
            kind=kind,
            inner_lr=self._observer.inner_lr,
            weights=self._watch.weights if self._watch.weighs else None,
        )
        if level == self._num_levels and self._watch.is_watching:
            self._watch.restart()
        for row in excluded:
            self._optimizer_state.forget(row)
        if not self._optimizer_state.keeps:
            self._optimizer_state.sync(self._synchronizer.blocks(level))
            if self._optimizer_state.makes_replicas and self._may_be_replicas:
                self.replica_level = max(self.replica_level, level)
        self.clock.begin_rounds(level, self._observer.observation)
        if self.replica_level:
            self._expect()

    def rest(self) -> None:
        """Expect no step soon: whatever gradients come now are not sent before a step asks for them."""
        self.gradients.expect(0)

    def require_idle(self, call: str) -> None:
        """Refuse a call in the middle of a step, or while the consensus model is being read.

        Args:
            call: What was called, for the message.

        Raises:
            StateError: If it does not fit.
        """
        if self.is_reading:
            raise StateError(
                f"{call} inside `with local.averaged():` would disturb the consensus model; leave it first."
            )
        if self._turn:
            raise StateError(f"{call} came between the rows of one step; row {self._turn} has to step first.")

    @property
    def is_flushed(self) -> bool:
        """Whether all processes know that there is nothing left to average."""
        is_whole = self._late is None or self._late.is_settled(self.clock.steps)
        return self.clock.is_flushed and is_whole and not self._watch.weighs

    @property
    def next_event(self) -> int | None:
        """Value of the clock when a sync, or a fragment of one, starts or lands next; ``None`` if none does."""
        late = None if self._late is None else self._late.next_event(*self.clock.round)
        return min((step for step in (self.clock.next_sync, late) if step is not None), default=None)

    def land(self, *, due_only: bool) -> None:
        """Let syncs that are under way land.

        Args:
            due_only: Whether only those land that are due now.
        """
        if self._late is not None:
            for row in self._late.land(self.clock.steps, due_only=due_only):
                self._optimizer_state.forget(row)

    def state(self) -> dict[str, Any]:
        """Give the numbers to save."""
        return {"replica_level": self.replica_level} | self._observer.state() | self.clock.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take saved numbers.

        Args:
            state: What `state` returned, with as many levels.
        """
        self.replica_level = state["replica_level"]
        self._observer.load(state)
        self._watch.restart_time()
        self.clock.load(state)
        self.rest()

    @property
    def _gradient_level(self) -> int:
        """Level at which the coming step averages gradients; 0 if every worker steps with its own."""
        return min(self.replica_level, self.clock.level_due(self.clock.steps + 1))

    def _step_alone(self, row: int, closure: Closure | None, scaler: torch.amp.GradScaler | None) -> Any:
        optimizer = self._optimizers[row]
        if self._clip_norm is not None:
            if scaler is not None:
                unscale_(scaler, optimizer)
            self._clip(row)
        if scaler is not None:
            return scaler.step(optimizer)
        return optimizer.step() if closure is None else optimizer.step(closure)

    def _step_together(self, scaler: torch.amp.GradScaler | None, *, level: int, row: int | None) -> Any:
        """Average gradients over the blocks of a level, then let every row step with its block's mean.

        The gradients are unscaled first, so the optimizers step without their scalers, which have already noted whether they
        overflowed; a scaler may be updated before the last row has come.
        """
        gradients, result = self.gradients, None
        self._scaler = scaler
        for index in self._take_turn(row):
            gradients.note_changes(index, scaler, level=level)
            if scaler is not None:
                unscale_(scaler, self._optimizers[index])
            gradients.stage(index, level=level)
        if self._turn:
            return None
        may_step = self._average_gradients(level, lenient=scaler is not None and scaler.is_enabled())
        for index, optimizer in enumerate(self._optimizers):
            if may_step[index]:
                gradients.load(index, level=level)
                self._clip(index)
                result = optimizer.step()
                gradients.release(index, level=level)
        self._conclude_together(level, has_stepped=any(may_step))
        return result

    def _average_single_row(self) -> None:
        level = self._gradient_level
        gradients = self.gradients
        gradients.note_changes(0, None, level=level)
        gradients.stage(0, level=level)
        self._average_gradients(level)
        gradients.load(0, level=level)
        self._clip(0)

    def _average_gradients(self, level: int, *, lenient: bool = False, staged: Staging = "row by row") -> list[bool]:
        coming = self.clock.steps + 1
        is_sync = level == self.clock.level_due(coming)
        return self.gradients.average(
            step=coming, level=level, inner_lr=self._observer.inner_lr, lenient=lenient, is_sync=is_sync, staged=staged
        )

    def _conclude_together(self, level: int, *, has_stepped: bool = True) -> None:
        self._lower_replicas(level)
        self.clock.steps += 1
        self.land(due_only=True)
        due = self.clock.level_due(self.clock.steps)
        if due > level:
            self.sync_parameters("parameters", level=due)
            self._start_fragments()
            return
        if level == self._num_levels:
            self._synchronizer.conclude_gradients(self.clock.steps, has_stepped=has_stepped)
        self.clock.begin_rounds(level, self._observer.observation)
        self._start_fragments()
        self._expect()

    def _expect(self) -> None:
        """Let gradients of the coming step be sent while backward still runs, if it is to average them."""
        if self._may_be_replicas and self.gradients.can_overlap:
            self.gradients.expect(self._gradient_level, self._scaler)

    def _tick(self) -> None:
        self._lower_replicas(0)
        self.clock.steps += 1
        self.land(due_only=True)
        is_over = self._watch.is_over(self.clock.steps_in_round, self._synchronizer.measure_drift)
        due = self._num_levels if is_over else self.clock.level_due(self.clock.steps)
        if due:
            self.sync_parameters("parameters", level=due)
        self._start_fragments()

    def _start_fragments(self) -> None:
        if self._late is not None:
            self._synchronizer.start_fragments(self.clock.steps, self.clock.round, inner_lr=self._observer.inner_lr)
            self._synchronizer.raise_postponed()

    def _lower_replicas(self, level: int) -> None:
        if level < self.replica_level:
            self.replica_level = level
            self.gradients.discard(above=level)

    def _clip(self, row: int) -> None:
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._models[row].parameters(), self._clip_norm)

    def _take_turn(self, row: int | None) -> range:
        num_rows = len(self._models)
        if self.is_reading:
            self.require_idle("step()")
        if row is None and self._turn == 0:
            return range(num_rows)
        require(
            row == self._turn,
            f"row={row} is out of turn: row {self._turn} of {num_rows} has to step next; step the rows in order, once each.",
        )
        self._turn = (self._turn + 1) % num_rows
        return range(row or 0, (row or 0) + 1)

    def _require_no_clipping(self) -> None:
        require(self._clip_norm is None, "clip_norm cannot be combined with a closure; clip inside the closure.")
