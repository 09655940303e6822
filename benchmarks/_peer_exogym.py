"""EXO Gym, with the rows as its nodes: see `_peers`."""

import socket
from functools import cache

import torch
import torch.distributed as dist
from _fleets import SGD_SETTINGS, Setting, prepare, total_of
from _orders import Orders
from exogym.strategy import FedAvgStrategy, OptimSpec
from exogym.trainer import Trainer
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import TensorDataset

from localsgd.lab.tasks import Task

__all__ = ["main"]

_FOR_EVER = 10**6


class _Over(Exception):  # noqa: N818 - nothing went wrong
    """Nobody measures any more."""


class _Worker(nn.Module):
    """What a node trains: it gives the loss on the samples that all contestants have, whatever batch it is handed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        _, _, self.network = prepare(Setting.read(text))
        self._text, self._step = text, 0

    def forward(self, batch: object) -> Tensor:  # noqa: ARG002 - of zeros
        _, task = _kept(self._text)
        loss = task.loss(self.network, step=self._step, worker=dist.get_rank())
        self._step += 1
        return loss


class _Ordered(FedAvgStrategy):  # type: ignore[misc]  # it is not installed where types are checked
    """Begins each round when it is told to; the rest is EXO Gym's, whose first round has a step more."""

    def __init__(self, path: str, period: int) -> None:
        super().__init__(H=period)
        self.inner_optim_spec = OptimSpec(torch.optim.SGD, **SGD_SETTINGS)
        self._path, self._period = path, period
        self._orders: Orders | None = None

    def step(self) -> None:
        super().step()
        is_over = self.local_step > 1 and (self.local_step - 1) % self._period == 0
        if not is_over or self.rank != 0:
            return  # the others wait in the barrier after this step
        if self._orders is None:
            self._orders = Orders(self._path, lambda: total_of(self.model.network.parameters()))
        else:
            self._orders.done()
        if not self._orders.wait():
            raise _Over


def main(path: str, text: str) -> None:
    """Train as told.

    Args:
        path: Where orders come from.
        text: What is trained.

    Raises:
        ProcessRaisedException: If a node fails.
    """
    torch.set_num_threads(1)
    setting = Setting.read(text)
    nothing = TensorDataset(torch.zeros(setting.batch_size * setting.workers * setting.period))
    trainer = Trainer(_Worker(text), nothing, nothing, start_port=_free_port() - 1)  # it adds one
    try:
        trainer.fit(
            num_epochs=1,
            strategy=_Ordered(path, setting.period),
            num_nodes=setting.workers,
            max_steps=_FOR_EVER,
            device="cpu",
            batch_size=setting.batch_size,
            minibatch_size=setting.batch_size,
            val_size=0,
            val_interval=_FOR_EVER,
        )
    except ProcessRaisedException as error:
        if _Over.__name__ not in str(error):
            raise


@cache
def _kept(text: str) -> tuple[Setting, Task]:
    torch.set_num_threads(1)
    setting = Setting.read(text)
    _, task, _ = prepare(setting)
    return setting, task


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
