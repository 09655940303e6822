"""Rounds of one step in the graph engine: gradients, their mean and the optimizers' steps, without waiting in between."""

from typing import final

import torch
from torch import Tensor

from localsgd.lab.engine.captured_rows import CapturedRows
from localsgd.lab.engine.protocol import Crew
from localsgd.lab.engine.replay import MakeReplay
from localsgd.lab.engine.rewind import Rewind
from localsgd.schedules import Decreasing

__all__ = ["MiniBatches"]


@final
class MiniBatches:
    """Takes steps that average gradients first, in the fastest of three ways that a run allows.

    *Whole*: a single process with a single level and plain averaging captures the whole step, and takes as many as there are
    draws for before it looks whether all was finite. If it was not, it goes back and takes them again, row by row, so that
    the error names the worker, and comes after the same step, as with any other engine. *Halves*: with several processes or
    an outer optimizer, and where syncs may be late, there are two graphs, and the exchange between them. *Row by row*: on
    several levels, for the first step, and where some parameter has no gradient; only gradients are captured.

    Cost:
        Memory for the gradients of all rows, two vectors of P values, and in the first way a `Rewind`.
    """

    def __init__(self, crew: Crew, rows: CapturedRows, *, make_replay: MakeReplay) -> None:
        """Prepare; nothing is captured yet.

        Args:
            crew: The workers.
            rows: What is captured of them.
            make_replay: Says how to repeat that.
        """
        self._crew, self._rows = crew, rows
        self._found = torch.zeros(len(crew.models), device=crew.device)
        self._joins = crew.local.topology.num_levels == 1
        config, is_alone = crew.plan.config, crew.local.num_workers == len(crew.models)
        has_late_syncs = config.overlap_steps > 0 or config.fragments > 1
        self._takes_whole = is_alone and config.outer.name == "averaging" and not has_late_syncs
        self._is_dense = False
        self._by_row_until = 0
        self._gradients: list[list[Tensor | None]] = []
        self._start = Rewind(crew)
        self._gradient_step = make_replay(self._compute, crew.device)
        self._staging_step = make_replay(self._compute_and_stage, crew.device)
        self._mean_step = make_replay(rows.step_with_mean, crew.device)
        self._round = make_replay(self._go_round, crew.device)

    def take_steps(self, step: int, limit: int) -> int:
        """Take steps, each of which is a round; see `Engine.take_steps`.

        Args:
            step: Steps taken before; the coming one averages gradients.
            limit: Most steps to take.

        Returns:
            Steps taken.

        Raises:
            ArgumentError: If the device has too little memory.
            NonFiniteError: If the gradients of a worker are not finite; on every process.
            SyncError: If the exchange fails.
        """
        crew = self._crew
        is_intact = all(crew.local.rows.find_broken(row) is None for row in range(len(crew.models)))
        if not (self._joins and self._is_dense and is_intact) or step < self._by_row_until:
            number = self._step_by_row(step)
        elif self._takes_whole:
            number = self._take_rounds(step, self._count_rounds(limit))
        else:
            number = self._step_in_halves(step)
        crew.losses.end_step()
        return number

    def drop(self) -> None:
        """Forget what was captured: something else was loaded, or workers step alone from now on."""
        for replay in (self._gradient_step, self._staging_step, self._mean_step, self._round):
            replay.drop()
        self._gradients, self._is_dense = [], False

    def _count_rounds(self, limit: int) -> int:
        """Count the rounds of one step that come now, as far as draws are taken at once."""
        crew, schedule = self._crew, self._crew.plan.schedule
        if crew.losses.are_told or isinstance(schedule, Decreasing):
            return 1
        most, taken, number = min(limit, self._rows.inputs.capacity), crew.local.steps, 1
        while number < most and schedule.next_sync(taken + number) == taken + number + 1:
            number += 1
        return number

    def _take_rounds(self, step: int, number: int) -> int:
        crew, rows, steps = self._crew, self._rows, range(step, step + number)
        self._start.mark()
        self._found.zero_()
        rows.inputs.fill(steps, crew.plan.learning_rate)
        with rows.rates_on_device():
            for _ in steps:
                self._round()
        rows.expect(range(steps.stop, steps.stop + number))
        if any(self._found.tolist()):
            self._start.restore()
            self._round.drop()
            self._by_row_until = steps.stop
            return self._step_by_row(step)
        rows.tell_losses()
        for each in steps:
            crew.set_rate(each)
            crew.local.stepper.count_round(is_last=each == steps[-1])
        return number

    def _step_in_halves(self, step: int) -> int:
        crew, rows = self._crew, self._rows
        crew.set_rate(step)
        self._found.zero_()
        rows.inputs.fill(range(step, step + 1), crew.plan.learning_rate)
        self._staging_step()
        rows.expect(range(step + 1, step + 2))
        rows.tell_losses()
        if any(self._found.tolist()):
            self._hand_over()
            return 1

        def take() -> None:
            with rows.rates_on_device():
                self._mean_step()

        crew.local.stepper.count_round(take)
        return 1

    def _step_by_row(self, step: int) -> int:
        crew, rows = self._crew, self._rows
        crew.set_rate(step)
        rows.inputs.fill(range(step, step + 1), crew.plan.learning_rate)
        self._gradient_step()
        rows.expect(range(step + 1, step + 2))
        rows.tell_losses()
        self._is_dense = all(gradient is not None for gradients in self._gradients for gradient in gradients)
        self._hand_over()
        return 1

    def _hand_over(self) -> None:
        """Let `LocalSGD.step` look at the gradients of one row after another, average them, and step."""
        for row, gradients in enumerate(self._gradients):
            self._rows.hand_over(row, gradients)
        self._rows.drop_gradients()

    def _compute(self) -> None:
        self._gradients = self._rows.compute_gradients()

    def _compute_and_stage(self) -> None:
        self._gradients = self._rows.compute_gradients()
        self._crew.local.stepper.gradients.stage_rows(self._found)
        self._rows.drop_gradients()

    def _go_round(self) -> None:
        gradients = self._crew.local.stepper.gradients
        self._rows.compute_gradients()
        gradients.stage_rows(self._found)
        gradients.settle()
        self._rows.step_with_mean()
