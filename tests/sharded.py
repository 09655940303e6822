"""Workers that fully_shard (FSDP2) divides over two processes each: four processes are two workers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from localsgd import LocalSGD, Processes, Schedule
from tests.equivalence.plain import Batch, convolutional, loss_of, perceptron

__all__ = ["Gain", "across", "halves", "normed", "odd", "parts", "shard", "start", "train", "whole", "worker_batches"]

PROCESSES = 4


class Gain(nn.Module):
    """One parameter of one element, of which the second process holds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.gain


def odd(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Sizes that do not divide, an empty part, tied weights, a frozen parameter, one that never has a gradient."""
    model = perceptron()
    assert isinstance(model, nn.Sequential)
    return model.append(Gain()).to(dtype)


def normed(dtype: torch.dtype = torch.float64) -> nn.Module:
    """BatchNorm, in the memory format that fully_shard wants."""
    return convolutional().to(dtype).to(memory_format=torch.contiguous_format)


def halves() -> DeviceMesh:
    """Two workers of two processes each."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))


def across(mesh: DeviceMesh) -> Processes:
    """The processes that hold the same part of the workers."""
    return Processes(mesh.get_group("replicate"))


def shard(model: nn.Module, mesh: DeviceMesh, **options: Any) -> nn.Module:
    """Divide a worker, its layers one by one where nothing is tied."""
    modules = [module for module in model.modules() if isinstance(module, nn.Conv2d | Gain)]
    for module in [*modules, model]:
        fully_shard(module, mesh=mesh["shard"], **options)
    return model


def start(
    make_model: Callable[[], nn.Module], make: Callable[[Any], Optimizer], schedule: Schedule, **options: Any
) -> tuple[nn.Module, Optimizer, LocalSGD]:
    """A sharded worker; those of worker 1 begin elsewhere, until LocalSGD starts all from worker 0."""
    mesh, model = halves(), make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(mesh.get_local_rank("replicate"))
    shard(model, mesh)
    optimizer = make(model.parameters())
    return model, optimizer, LocalSGD(model, optimizer, schedule, communicator=across(mesh), **options)


def train(
    model: nn.Module, optimizer: Optimizer, local: LocalSGD, data: Sequence[Sequence[Batch]]
) -> list[tuple[int, str]]:
    """The usual loop, each process with a batch of its own; gives step and kind of each sync."""
    log = []
    for row in data:
        loss = loss_of(model, row[dist.get_rank()])
        local.observe(loss)
        loss.backward()
        local.step()
        optimizer.zero_grad()
        if local.last_sync is not None and local.last_sync.step == local.steps:
            log.append((local.steps, local.last_sync.kind))
    return log


def parts(model: nn.Module) -> dict[str, Tensor]:
    """What this process holds of each parameter."""
    with torch.no_grad():
        named = model.named_parameters(remove_duplicate=False)
        return {name: parameter.to_local().clone() for name, parameter in named}


def whole(model: nn.Module) -> dict[str, Tensor]:
    """All parameters put together again, on every process, and the module buffers."""
    with torch.no_grad():
        named = model.named_parameters(remove_duplicate=False)
        found = {name: parameter.full_tensor().clone() for name, parameter in named}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def worker_batches(data: Sequence[Sequence[Batch]]) -> list[list[Batch]]:
    """The batches of the two workers: those of their two processes."""
    return [
        [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in ((row[0], row[1]), (row[2], row[3]))]
        for row in data
    ]
