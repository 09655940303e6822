"""What schedules that observe get to see: rates and losses on which all workers agree."""

from typing import Any, final

from torch.optim import Optimizer

from localsgd.conversation.ledger import Ledger
from localsgd.schedules import Observation

__all__ = ["Observer"]


@final
class Observer:
    """Reads the learning rate of one optimizer, and what syncs told about those of all.

    Attributes:
        inner_lr: Learning rate of the latest step, as this process has it.
    """

    def __init__(self, optimizer: Optimizer, ledger: Ledger) -> None:
        """Read the first learning rate.

        Args:
            optimizer: The optimizer of the first row.
            ledger: What syncs told.
        """
        self._optimizer, self._ledger = optimizer, ledger
        self.read()
        self._initial_lr = self.inner_lr
        self._initial_loss: float | None = None

    def read(self) -> None:
        """Note the present learning rate, before a scheduler changes it."""
        self.inner_lr = float(self._optimizer.param_groups[0].get("lr", 0.0))

    def observation(self, period: int | None = None) -> Observation:
        """Tell what all workers of the block agree on: before the first sync, that their optimizers were alike.

        Args:
            period: Steps that the round just ended was meant to have; ``None`` if none was before.

        Returns:
            What a schedule may look at.
        """
        told = self._ledger.told
        rate, loss = told.get("learning_rate"), told.get("train_loss")
        if self._initial_loss is None:
            self._initial_loss = loss
        if "lr" not in self._optimizer.param_groups[0]:
            return Observation(train_loss=loss, initial_loss=self._initial_loss, period=period)
        return Observation(
            learning_rate=self.inner_lr if rate is None else rate,
            train_loss=loss,
            initial_learning_rate=self._initial_lr,
            initial_loss=self._initial_loss,
            period=period,
        )

    def state(self) -> dict[str, Any]:
        """Give the numbers to save."""
        return {"inner_lr": self.inner_lr, "initial_lr": self._initial_lr, "initial_loss": self._initial_loss}

    def load(self, state: dict[str, Any]) -> None:
        """Take saved numbers.

        Args:
            state: What `state` returned.
        """
        self.inner_lr = state["inner_lr"]
        self._initial_lr, self._initial_loss = state["initial_lr"], state["initial_loss"]
