"""The graph engine: on a GPU, the step of all rows captured in one CUDA graph whose branches run side by side."""

from typing import final

from localsgd.errors import ArgumentError
from localsgd.lab.engine.captured_rows import CapturedRows
from localsgd.lab.engine.mini_batches import MiniBatches
from localsgd.lab.engine.protocol import Crew, EngineName
from localsgd.lab.engine.replay import MakeReplay, Measure, Replay
from localsgd.lab.tasks import Staged
from localsgd.schedules import WatchingSchedule

__all__ = ["GraphEngine"]


@final
class GraphEngine:
    """Replays steps without Python; sixteen small batches fill a chip that one would leave idle.

    Local steps are one graph, optimizers included; rounds of one step, in which gradients are averaged first, are a matter
    of `localsgd.lab.engine.mini_batches`. On a CPU the same code runs directly, row by row, and leads to the same bits as
    the plain engine.

    Attributes:
        name: ``graph``.

    Cost:
        On a GPU memory for the activations of as many rows as there are streams, at most 16, and in rounds of one step for
        the gradients of all.
    """

    name: EngineName = "graph"

    def __init__(self, crew: Crew, *, measure: Measure | None = None, make_replay: MakeReplay = Replay) -> None:
        """Prepare; nothing is captured before the second step.

        Args:
            crew: The workers; see `localsgd.lab.engine.choice` for what they must not have.
            measure: Measures what the step of a worker does to the device's memory. Default: asks a CUDA device; elsewhere
                nothing is measured, nor refused.
            make_replay: Says how to repeat a step.

        Raises:
            ArgumentError: If the task does not fall into stages.
        """
        if not isinstance(crew.task, Staged):
            raise ArgumentError("engine='graph' needs a task that falls into stages; use engine=plain.")
        self._crew, self._make_replay = crew, make_replay
        self._watches = isinstance(crew.plan.schedule, WatchingSchedule)
        self._rows = CapturedRows(crew, crew.task, measure=measure)
        self._mini_batches: MiniBatches | None = None
        self._local_step = make_replay(self._rows.step_locally, crew.device)

    def take_steps(self, step: int, limit: int) -> int:
        """Take steps up to the next sync, or several rounds of one step; see `Engine.take_steps`.

        Args:
            step: Steps taken before.
            limit: Most steps to take.

        Returns:
            Steps taken.

        Raises:
            ArgumentError: If the device has too little memory.
            NonFiniteError: If a worker is not finite; on every process.
            SyncError: If the exchange fails.
        """
        crew, rows, stepper = self._crew, self._rows, self._crew.local.stepper
        if stepper.averages_gradients:
            self._mini_batches = self._mini_batches or MiniBatches(crew, rows, make_replay=self._make_replay)
            return self._mini_batches.take_steps(step, limit)
        if self._mini_batches is not None:  # workers that have stepped alone never average gradients again
            self._mini_batches.drop()
            self._mini_batches = None
        due = crew.local.next_sync
        is_asked = self._watches or crew.losses.are_told
        number = 1 if is_asked else min(limit, rows.inputs.capacity, limit if due is None else due - crew.local.steps)
        rows.inputs.fill(range(step, step + number), crew.plan.learning_rate)
        with rows.rates_on_device():
            for _ in range(number):
                self._local_step()
        rows.expect(range(step + number, step + 2 * number))
        crew.set_rate(step + number - 1)
        rows.tell_losses()
        stepper.count(number)
        crew.losses.end_step()
        return number

    def adopt(self) -> None:
        """Capture anew: loading has replaced the optimizers' state."""
        self._local_step.drop()
        if self._mini_batches is not None:
            self._mini_batches.drop()
