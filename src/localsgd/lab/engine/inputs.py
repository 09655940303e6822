"""What Python decides about the next steps (samples, augmentation, learning rate), in tensors that never move."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from localsgd.lab.tasks import Staged

__all__ = ["StepInputs"]


@final
class StepInputs:
    """Holds the draws and learning rates of some steps on the device, and a place in them that moves on the device, too.

    All of a round is copied at once, from memory that the device can read by itself; then the steps follow each other
    without Python. Draws are made on the CPU as for every other engine: a few integers a sample. Those of the steps to come
    can be made while the device computes.

    Attributes:
        capacity: Most steps that fit.
        rate: Learning rate of the present step, a tensor of one element.
    """

    def __init__(self, task: Staged, workers: range, device: torch.device, *, capacity: int) -> None:
        """Take the memory.

        Args:
            task: Makes the draws.
            workers: Numbers of the workers, in the order of the rows.
            device: Where the steps compute.
            capacity: Most steps to hold, >= 1.
        """
        self._task, self._workers, self.capacity = task, workers, capacity
        shape = (capacity, len(workers), *task.draw(step=0, worker=workers[0]).shape)
        # CUDA's fused optimizers read a rate of 32 bits; those of the CPU take the number as it is.
        real = torch.float32 if device.type == "cuda" else torch.float64
        self._draws = torch.zeros(shape, dtype=torch.int64, device=device)
        self._rates = torch.zeros(capacity, dtype=real, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self.rate = torch.zeros((), dtype=real, device=device)
        pinned = device.type == "cuda"
        # Two of them: one is filled while the device may still be reading the other.
        self._staging = [
            (
                torch.zeros(shape, dtype=torch.int64, pin_memory=pinned),
                torch.zeros(capacity, dtype=real, pin_memory=pinned),
            )
            for _ in range(2)
        ]
        event: Any = torch.cuda.Event  # torch has no annotation for its constructor
        self._copied: list[torch.cuda.Event] = [event(), event()] if pinned else []
        self._turn = 0
        self._ready = range(0)

    def fill(self, steps: range, rate: Callable[[int], float]) -> None:
        """Draw for the coming steps.

        Args:
            steps: Their numbers, at most `capacity` of them.
            rate: Gives the learning rate of a step.
        """
        self.prepare(steps, rate)
        draws, rates = self._staging[self._turn]
        number, self._ready = len(steps), range(0)
        self._draws[:number].copy_(draws[:number], non_blocking=True)
        self._rates[:number].copy_(rates[:number], non_blocking=True)
        self._place.zero_()
        if self._copied:
            self._copied[self._turn].record()

    def prepare(self, steps: range, rate: Callable[[int], float]) -> None:
        """Draw for steps that will probably be filled in next; nothing is copied to the device yet.

        Args:
            steps: Their numbers, at most `capacity` of them.
            rate: Gives the learning rate of a step.
        """
        if not self._ready or self._ready.start != steps.start:
            self._turn, self._ready = 1 - self._turn, range(steps.start, steps.start)
            if self._copied:
                self._copied[self._turn].synchronize()
        draws, rates = self._staging[self._turn]
        for step in range(self._ready.stop, steps.stop):
            rates[step - steps.start] = rate(step)
            for row, worker in enumerate(self._workers):
                draws[step - steps.start, row].copy_(self._task.draw(step=step, worker=worker))
        self._ready = range(steps.start, max(steps.stop, self._ready.stop))

    def read(self) -> Tensor:
        """Go to the next step: set `rate`, and give the draws of all rows, shape (V, B, D)."""
        self.rate.copy_(self._rates.index_select(0, self._place)[0])
        draws = self._draws.index_select(0, self._place)[0]
        self._place.add_(1)
        return draws
