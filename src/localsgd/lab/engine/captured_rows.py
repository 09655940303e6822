"""What of a step of all rows can be captured: backward passes and optimizer steps, on branches that run side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from localsgd.lab.engine.inputs import StepInputs
from localsgd.lab.engine.protocol import Crew
from localsgd.lab.engine.replay import Branches, Measure
from localsgd.lab.tasks import Staged

__all__ = ["CapturedRows"]

_CAPACITY = 64
"""Most steps whose draws are on the device at once."""
_VECTORS_OF_A_MEAN = 2
_STATES = {"sgd": 1, "lars": 1, "adamw": 2}
"""Tensors that an optimizer keeps beside each parameter."""


@final
class CapturedRows:
    """The pieces from which a graph is made: each reads its inputs from tensors that never move, and waits for nothing.

    Attributes:
        inputs: Draws and learning rates of the coming steps.
    """

    def __init__(self, crew: Crew, task: Staged, *, measure: Measure | None) -> None:
        """Prepare.

        Args:
            crew: The workers.
            task: What is learnt.
            measure: Measures a piece of work; see `Branches`.
        """
        self._crew, self._task = crew, task
        self._clip_norm = crew.plan.config.optimizer.clip_norm
        self._parameters = [list(model.parameters()) for model in crew.models]
        self._model_bytes = sum(parameter.nbytes for parameter in self._parameters[0])
        self._latest = torch.zeros(len(crew.models), device=crew.device)
        self._branches = Branches(crew.device, measure=measure)
        self.inputs = StepInputs(task, crew.workers, crew.device, capacity=_CAPACITY)

    @property
    def mean_bytes(self) -> int:
        """Memory that rounds of one step take for good: states of the optimizers, vectors of the mean, a way back."""
        way_back = self._model_bytes * (1 + _STATES[self._crew.plan.config.optimizer.name])
        return len(self._parameters) * self._state_bytes + _VECTORS_OF_A_MEAN * self._model_bytes + way_back

    def expect(self, steps: range) -> None:
        """Draw for steps that will probably come next, while the device computes.

        Args:
            steps: Their numbers; those behind the end of the run are left out.
        """
        plan = self._crew.plan
        self.inputs.prepare(range(steps.start, min(steps.stop, plan.num_steps)), plan.learning_rate)

    def step_locally(self) -> None:
        """Take one step with every row, as the inputs say."""
        draws = self.inputs.read()
        pieces = [partial(self._step_row, row, draws[row]) for row in range(len(draws))]
        self._branches.run(pieces, kept_bytes=self._state_bytes)
        self._crew.losses.sums.add_(self._latest)

    def compute_gradients(self) -> list[list[Tensor | None]]:
        """Compute the gradients of every row, as the inputs say.

        Returns:
            They themselves, by row and parameter; the parameters hold them, too.
        """
        draws = self.inputs.read()
        pieces = [partial(self._backward, row, draws[row]) for row in range(len(draws))]
        self._branches.run(pieces, kept_bytes=self._model_bytes, resident_bytes=self.mean_bytes)
        self._crew.losses.sums.add_(self._latest)
        return [[parameter.grad for parameter in own] for own in self._parameters]

    def step_with_mean(self) -> None:
        """Let every row step with the mean gradient, which must be there; clipped once for all of them."""
        self._crew.local.stepper.gradients.load_rows()
        self._clip(0)
        pieces = [partial(self._step_optimizer, row) for row in range(len(self._parameters))]
        self._branches.run(pieces)

    def hand_over(self, row: int, gradients: list[Tensor | None]) -> None:
        """Give a row its gradients, and step it through `LocalSGD.step`.

        Args:
            row: Number of the row.
            gradients: One a parameter.
        """
        for parameter, gradient in zip(self._parameters[row], gradients, strict=True):
            parameter.grad = gradient
        self._crew.local.step(row=row)

    def drop_gradients(self) -> None:
        """Take the gradients away from all parameters."""
        for optimizer in self._crew.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def tell_losses(self) -> None:
        """Tell the schedule the losses of the step that was replayed last, if it looks at them."""
        for row in range(len(self._latest) if self._crew.losses.are_told else 0):
            self._crew.losses.tell(row, self._latest[row])

    @contextmanager
    def rates_on_device(self) -> Iterator[None]:
        """Let the optimizers read their rate from a tensor, which a captured step does anew at each replay."""
        groups = [group for optimizer in self._crew.optimizers for group in optimizer.param_groups]
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = self.inputs.rate
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    @property
    def _state_bytes(self) -> int:
        """Memory that the optimizer of a row has yet to take."""
        has_state = any(state for state in self._crew.optimizers[-1].state.values())
        return 0 if has_state else self._model_bytes * _STATES[self._crew.plan.config.optimizer.name]

    def _step_row(self, row: int, draw: Tensor) -> None:
        self._backward(row, draw)
        self._clip(row)
        self._step_optimizer(row)

    def _backward(self, row: int, draw: Tensor) -> None:
        loss = self._task.batch_loss(self._crew.models[row], self._task.batch(draw))
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        self._latest[row].copy_(loss.detach())

    def _clip(self, row: int) -> None:
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters[row], self._clip_norm)

    def _step_optimizer(self, row: int) -> None:
        """Step; optimizers that ask for it are told when they are captured, and only then: else they warn."""
        optimizer = self._crew.optimizers[row]
        is_captured = self._latest.is_cuda and torch.cuda.is_current_stream_capturing()
        groups = [group for group in optimizer.param_groups if "capturable" in group]
        for group in groups:
            group["capturable"] = is_captured
        optimizer.step()
        for group in groups:
            group["capturable"] = False
        optimizer.zero_grad(set_to_none=True)
