"""The processes that hold one worker together, each a part of its parameters: what one of them finds, all must know."""

from typing import final

import torch
from torch import Tensor

from localsgd.averaging.facts import Facts
from localsgd.averaging.offender import Offender
from localsgd.buffers.flat import FlatRows
from localsgd.communicators.one_process import OneProcess
from localsgd.communicators.processes import Processes
from localsgd.communicators.protocol import Communicator

__all__ = ["WorkerProcesses"]


@final
class WorkerProcesses:
    """The processes among which fully_shard has divided a worker; usually there is one, and nothing is exchanged.

    Every process of the worker must call the same methods in the same order.

    Attributes:
        size: How many processes hold a part of the worker.
    """

    def __init__(self, rows: FlatRows) -> None:
        """Find them.

        Args:
            rows: The workers of this process.
        """
        self._communicator: Communicator = Processes(rows.shards[0].mesh.get_group()) if rows.shards else OneProcess()
        self._device = rows.groups[0].layout.device
        self.size = self._communicator.world_size

    def agree(self, offender: Offender | None) -> Offender | None:
        """Tell each other whether the worker may enter the mean.

        Args:
            offender: What this process has against it.

        Returns:
            The same on all processes: what one of them has against it, if any.

        Cost:
            An all-reduce of one number; if something is wrong, an exchange of small objects. Nothing for a single process.
        """
        if self.size == 1 or not self._sum([float(offender is not None)])[0]:
            return offender
        found: list[Offender] = [other for other in self._communicator.gather(offender) if other is not None]
        return next((other for other in found if other.is_broken), found[0])

    def combine(self, facts: Facts) -> Facts:
        """Turn facts about parts of workers into facts about workers.

        Args:
            facts: Facts summed over this process and those that hold the same part of other workers.

        Returns:
            The same, bit for bit, on all processes of all workers.

        Cost:
            An all-reduce of a few numbers; nothing for a single process.
        """
        if self.size == 1:
            return facts
        rate = facts.learning_rate if self._communicator.rank == 0 else 0.0
        numbers = self._sum([float(fact) for fact in facts._replace(learning_rate=rate)])
        total = Facts(*numbers)  # type: ignore[arg-type]  # counts become whole numbers below
        return total._replace(
            finite_workers=round(total.finite_workers / self.size),
            broken_workers=round(total.broken_workers / self.size),
            weight=total.weight / self.size,
            stop_votes=round(total.stop_votes),
            num_losses=round(total.num_losses),
            tag=round(total.tag),
            tag_squared=round(total.tag_squared),
            spoiled=round(total.spoiled),
            unnoticed=round(total.unnoticed),
        )

    def sum(self, number: float) -> float:
        """Add up what each process knows of its part.

        Args:
            number: This process's share.

        Returns:
            The sum, the same on all processes of the worker.

        Cost:
            An all-reduce of one number; nothing for a single process.
        """
        return number if self.size == 1 else self._sum([number])[0]

    def average_(self, vector: Tensor) -> None:
        """Replace a vector that every process has for itself by the mean.

        Args:
            vector: Shape (n,), contiguous. Overwritten.

        Cost:
            One all-reduce; nothing for a single process.
        """
        if self.size > 1 and vector.numel():
            self._communicator.all_reduce_(vector)
            vector.div_(self.size)

    def _sum(self, numbers: list[float]) -> list[float]:
        told = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        self._communicator.all_reduce_(told)
        return [float(number) for number in told.tolist()]
