"""Flower's simulation engine, with the rows as its clients: see `_peers`."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from _fleets import Setting, prepare, sgd, take_step, total_of
from _orders import Orders
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from localsgd.lab.tasks import Task

__all__ = ["main"]

_FOR_EVER = 10**6


class _Over(Exception):  # noqa: N818 - nothing went wrong
    """Nobody measures any more."""


class _Ordered(FedAvg):
    """Begins each round when it is told to; the rest is Flower's."""

    def __init__(self, path: str, setting: Setting) -> None:
        num_clients = setting.workers
        super().__init__(fraction_evaluate=0.0, min_train_nodes=num_clients, min_available_nodes=num_clients)
        self._path, self._setting = path, setting
        self._orders: Orders | None = None
        self._arrays = ArrayRecord()

    def configure_train(  # noqa: PLR0917 - Flower's signature
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self._orders is None:
            self._orders = Orders(self._path, lambda: _total(self._arrays, self._setting))
        else:
            self._orders.done()
        self._arrays = arrays
        if not self._orders.wait():
            raise _Over
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        found = list(replies)
        failed = [message.error.reason for message in found if message.has_error()]
        if failed or len(found) != self._setting.workers:
            raise RuntimeError(f"{len(found)} of {self._setting.workers} clients answered: {'; '.join(failed)}")
        return super().aggregate_train(server_round, found)


def main(path: str, text: str) -> None:
    """Train as told.

    Args:
        path: Where orders come from.
        text: What is trained.
    """
    torch.set_num_threads(1)
    setting = Setting.read(text)
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(message, worker=int(context.node_config["partition-id"]), text=text)

    @server.main()
    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        _, _, model = prepare(setting)
        _Ordered(path, setting).start(grid, ArrayRecord(model.state_dict()), num_rounds=_FOR_EVER)

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    try:
        run_simulation(server, client, num_supernodes=setting.workers, backend_config={"client_resources": resources})
    except _Over:
        return


def _answer(message: Message, *, worker: int, text: str) -> Message:
    """Train one client for one round; runs in a process of Ray's, which keeps network and samples for the next client."""
    setting, task, model = _kept(text)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = sgd(model)
    end = int(message.content["config"]["server-round"]) * setting.period
    for step in range(end - setting.period, end):
        take_step(task.loss(model, step=step, worker=worker), optimizer)
    count = MetricRecord({"num-examples": setting.batch_size * setting.period})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": count}), reply_to=message)


@cache
def _kept(text: str) -> tuple[Setting, Task, nn.Module]:
    torch.set_num_threads(1)
    setting = Setting.read(text)
    _, task, model = prepare(setting)
    return setting, task, model


def _total(arrays: ArrayRecord, setting: Setting) -> float:
    _, _, model = prepare(setting)
    names = {name for name, _ in model.named_parameters()}
    return total_of(tensor for name, tensor in arrays.to_torch_state_dict().items() if name in names)
