"""What trains the workers of a process: the engine, and the crew that it is handed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from localsgd.lab.engine.losses import Losses
from localsgd.lab.plan import RunPlan
from localsgd.lab.tasks import Task
from localsgd.local_sgd import LocalSGD

__all__ = ["Crew", "Engine", "EngineName"]

EngineName = Literal["plain", "stacked", "graph"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Crew:
    """The workers of this process, with everything that a step of theirs needs."""

    plan: RunPlan
    """What the run will do."""

    task: Task
    """What is learnt."""

    models: Sequence[nn.Module]
    """One a row."""

    optimizers: Sequence[Optimizer]
    """One a row."""

    local: LocalSGD
    """What counts steps and syncs."""

    losses: Losses
    """Where losses go."""

    @property
    def workers(self) -> range:
        """Numbers of the workers, in the order of the rows."""
        return range(self.local.first_worker, self.local.first_worker + len(self.models))

    @property
    def device(self) -> torch.device:
        """Where models and batches are."""
        return next(self.models[0].parameters()).device

    def set_rate(self, step: int) -> float:
        """Give every optimizer the learning rate of a step.

        Args:
            step: Steps taken before.

        Returns:
            The rate.
        """
        rate = self.plan.learning_rate(step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate


class Engine(Protocol):
    """Takes the steps of all workers of this process; every engine leads to the same models, at least to rounding."""

    name: EngineName
    """What it is called in a configuration."""

    def take_steps(self, step: int, limit: int) -> int:
        """Let every worker take some steps, with syncs where they are due, no more than `LocalSGD.recent_syncs` tells of.

        Args:
            step: Steps taken before.
            limit: Most steps to take, >= 1.

        Returns:
            Steps taken, in [1, ``limit``].

        Raises:
            NonFiniteError: If a sync finds a worker that is not finite; on every process.
            SyncError: If the exchange fails.
        """
        ...

    def adopt(self) -> None:
        """Take over what was loaded into models and optimizers."""
        ...
