"""The workers of this process: their models and optimizers, the engine that trains them, and what is saved of them."""

from collections.abc import Mapping
from typing import Any, final

from torch import nn

from localsgd._checks import require
from localsgd.buffers import replicate
from localsgd.communicators import Communicator, SharedMemory
from localsgd.lab.config import RunConfig
from localsgd.lab.engine import ENGINES, Crew, Losses, choose_engine
from localsgd.lab.forward import Forward
from localsgd.lab.optimizers import make_compressor, make_optimizer, make_outer
from localsgd.lab.plan import RunPlan
from localsgd.lab.tasks import CarriesState, Task
from localsgd.local_sgd import LocalSGD

__all__ = ["Workers"]

_BY_WORKER = ("residuals", "snapshots")
"""What `LocalSGD.state_dict` holds for each worker."""


@final
class Workers:
    """V = workers / processes models side by side, each with its own optimizer, and the LocalSGD that joins them.

    Attributes:
        models: One a row.
        local: What counts steps and syncs.
        first_worker: Number of the worker in row 0.
        num_parameters: Of one model.
        engine: Name of the engine.
    """

    def __init__(
        self,
        plan: RunPlan,
        task: Task,
        *,
        model: nn.Module,
        forward: Forward,
        communicator: Communicator,
    ) -> None:
        """Build the models and join all workers.

        Args:
            plan: What the run will do.
            task: What is learnt.
            model: What all workers start from; it becomes that of row 0.
            forward: How inputs go through a model.
            communicator: The processes that hold the other workers.

        Raises:
            ArgumentError: If the workers or their blocks cannot be dealt out evenly, or the engine refuses the model.
            DisagreementError: If the processes differ; on every process.
        """
        config, num_processes = plan.config, communicator.world_size
        require(
            config.workers % num_processes == 0,
            f"workers={config.workers} must be a multiple of the {num_processes} processes, so that each holds as many; "
            f"use workers={-(-config.workers // num_processes) * num_processes}, or start other processes.",
        )
        num_rows = config.workers // num_processes
        self._task = task
        forward.place(model)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.engine = choose_engine(config, task, model, num_rows=num_rows, device=forward.device)
        self.models = replicate(model, num_rows)
        settings, rate = config.optimizer, plan.learning_rate(0)
        self._optimizers = [make_optimizer(own, settings, learning_rate=rate) for own in self.models]
        self.local = LocalSGD(
            self.models,
            self._optimizers,
            plan.schedule,
            communicator=communicator,
            topology=plan.topology,
            outer=make_outer(config.outer),
            compression=None if config.only_averages_gradients else make_compressor(config.compression),
            buffers=config.buffers,
            **_exchange_options(config),
            clip_norm=settings.clip_norm,
            measure_drift=True,
            # A captured backward cannot send anything. In shared memory there is nothing to hide: the sum of a ResNet-20
            # takes 0.4 ms of a core, and to look out for gradients during backward takes 0.8.
            overlap_gradients=self.engine == "plain" and not isinstance(communicator, SharedMemory),
        )
        self.first_worker = self.local.first_worker
        self._losses = Losses(self.local, plan.schedule, num_rows=num_rows, device=forward.device)
        crew = Crew(
            plan=plan,
            task=task,
            models=self.models,
            optimizers=self._optimizers,
            local=self.local,
            losses=self._losses,
        )
        self._engine = ENGINES[self.engine](crew)

    def take_steps(self, step: int, limit: int) -> int:
        """Let every worker of this process take some steps, with syncs where they are due.

        Args:
            step: Steps taken before; each may be made of several batches.
            limit: Most steps to take, >= 1.

        Returns:
            Steps taken, in [1, ``limit``].

        Raises:
            NonFiniteError: If a sync finds a worker that is not finite; on every process.
            SyncError: If the exchange fails.
        """
        return self._engine.take_steps(step, limit)

    def take_loss_sums(self) -> list[float]:
        """Give each row's sum of losses since the last call, and begin new sums."""
        return self._losses.take()

    def shared_state(self) -> dict[str, Any]:
        """Give what ``local.state_dict()`` holds for all workers alike."""
        state = self.local.state_dict()
        return state | {name: {} for name in _BY_WORKER if name in state}

    def state(self) -> dict[int, dict[str, Any]]:
        """Collect what each worker has for itself, by its number."""
        rows = zip(self.models, self._optimizers, self._losses.state(), strict=True)
        whole = self.local.state_dict()
        return {
            worker: {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                **losses,
                **{name: whole.get(name, {}).get(worker) for name in _BY_WORKER},
                "task": self._task.worker_state(worker) if isinstance(self._task, CarriesState) else {},
            }
            for worker, (model, optimizer, losses) in enumerate(rows, start=self.first_worker)
        }

    def load(self, shared: dict[str, Any], workers: Mapping[int, Mapping[str, Any]]) -> None:
        """Go on where a checkpoint was saved, by whatever engine.

        Args:
            shared: What ``local.state_dict()`` gave then.
            workers: What `state` gave then, for the workers of this process.
        """
        for row, (model, optimizer) in enumerate(zip(self.models, self._optimizers, strict=True)):
            own = workers[self.first_worker + row]
            model.load_state_dict(own["model"])
            optimizer.load_state_dict(own["optimizer"])
            self._losses.load(row, own)
            if isinstance(self._task, CarriesState):
                self._task.load_worker_state(self.first_worker + row, own["task"])
        for name in _BY_WORKER:
            owned = {worker: own[name] for worker, own in workers.items() if own.get(name) is not None}
            shared = shared | ({name: owned} if name in shared else {})
        if self._losses.are_told:
            shared = shared | {"losses": [self._losses.told()]}
        self.local.load_state_dict(shared)
        self._engine.adopt()


def _exchange_options(config: RunConfig) -> dict[str, Any]:
    """Choose how parameters are sent; gradients always go at once, and whole."""
    if config.only_averages_gradients:
        return {}
    return {name: getattr(config, name) for name in ("overlap_steps", "overlap_mixing", "fragments")}
