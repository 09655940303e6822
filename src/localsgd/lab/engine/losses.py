"""The training losses of this process's workers: their sums for the record, and what the schedule is told of them."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from localsgd.local_sgd import LocalSGD
from localsgd.schedules import Decreasing, Schedule

__all__ = ["Losses"]


@final
class Losses:
    """Adds up losses on the device, without waiting for them.

    Attributes:
        sums: Of each row since `take`, shape (V,), float64; never replaced by another tensor.
        are_told: Whether the schedule looks at the loss of every step.
    """

    def __init__(self, local: LocalSGD, schedule: Schedule, *, num_rows: int, device: torch.device) -> None:
        """Begin with sums of zero.

        Args:
            local: Whom to tell losses.
            schedule: Decides whether it wants to know.
            num_rows: Workers in this process V.
            device: Where their losses are.
        """
        self._local = local
        self.sums = torch.zeros(num_rows, dtype=torch.float64, device=device)
        self.are_told = isinstance(schedule, Decreasing)
        # What was told since the last sync, by row: local.state_dict() holds the sum over this process's rows only.
        self._round_sums, self._num_told = torch.zeros_like(self.sums), 0

    def add(self, row: int, loss: Tensor) -> None:
        """Note the loss of one row's step, before the row steps.

        Args:
            row: Number of the row; rows come in order.
            loss: Its loss, a tensor of one element.
        """
        self.sums[row] += loss
        self.tell(row, loss)

    def tell(self, row: int, loss: Tensor) -> None:
        """Tell the schedule a loss that is in the sums already; see `add`.

        Args:
            row: Number of the row.
            loss: Its loss.
        """
        if self.are_told:
            self._round_sums[row] += loss
            self._local.observe(loss)

    def end_step(self) -> None:
        """Note that all rows have stepped, and synced if that was due."""
        if self.are_told:
            self._num_told += 1
            if self._local.stepper.clock.steps_in_round == 0:  # not so after the sync of a fragment inside a round
                self._round_sums.zero_()
                self._num_told = 0

    def take(self) -> list[float]:
        """Give each row's sum of losses since the last call, and begin new sums."""
        sums: list[float] = self.sums.tolist()
        self.sums.zero_()
        return sums

    def state(self) -> list[dict[str, Any]]:
        """Give what has to be saved of each row."""
        rows = zip(self.sums.tolist(), self._round_sums.tolist(), strict=True)
        return [{"loss_sum": total, "round_losses": (told, self._num_told)} for total, told in rows]

    def load(self, row: int, state: Mapping[str, Any]) -> None:
        """Take what `state` gave of a row.

        Args:
            row: Number of the row.
            state: What was saved.
        """
        self.sums[row] = state["loss_sum"]
        self._round_sums[row], self._num_told = state["round_losses"]

    def told(self) -> tuple[float, int]:
        """Sum what was told since the last sync, and count it, over all rows."""
        return self._round_sums.sum().item(), len(self.sums) * self._num_told
