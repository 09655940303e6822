"""The contestants of shaped_network: ways of training on several hosts, and of summing a vector over them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from _bare_models import with_parameters
from _wire_network import Network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from localsgd import Every, Hierarchical, LocalSGD, Never, Topology, compression
from localsgd.communicators import OneProcess, Processes
from localsgd.errors import ArgumentError
from localsgd.lab.config import RunConfig
from localsgd.lab.forward import Forward
from localsgd.lab.optimizers import make_optimizer

__all__ = [
    "ALONE",
    "BESIDE",
    "BFLOAT16",
    "BY_HOST",
    "CONTROL",
    "DDP",
    "EVERY_8",
    "EVERY_32",
    "FLAT_SUM",
    "FLOOR_SUM",
    "HOSTS_SUM",
    "INTERLEAVED_SUM",
    "OVERLAPPED",
    "Summing",
    "Task",
    "Trainee",
    "Way",
    "refused_ways",
    "summing_ways",
    "training_ways",
]

LEARNING_RATE = 0.01
OVERLAP_STEPS = 7
ALONE, DDP, CONTROL = "compute only", "DDP(forward_sync_buffers=False)", "DDP(forward_sync_buffers=False), again"
EVERY_8, EVERY_32, BFLOAT16 = "localsgd, H = 8", "localsgd, H = 32", "localsgd, H = 8, BFloat16"
BESIDE = "compute only, raw all_reduce beside 7 of 8 steps"
BY_HOST, OVERLAPPED = "localsgd, H = 8, host by host", f"localsgd, H = 8, overlap of {OVERLAP_STEPS} steps"
FLOOR_SUM, RAW_SUM = "raw all_reduce, one process a host", "raw all_reduce, all processes"
FLAT_SUM, HOSTS_SUM = "localsgd sync, flat", "localsgd sync, host by host"
INTERLEAVED_SUM = "localsgd sync, flat, processes dealt to hosts in turn"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all contestants train on, and in which arithmetic."""

    config: RunConfig
    """The run of the lab whose optimizer they have."""
    forward: Forward
    """How images go through a model: memory format and arithmetic."""
    batches: list[tuple[Tensor, Tensor]]
    """Images and labels, taken again and again."""


@dataclass(kw_only=True)
class Trainee:
    """A model, and how it is trained."""

    task: Task
    """What it is trained on."""
    model: nn.Module
    """What computes the loss."""
    optimizer: Optimizer
    """Its optimizer."""
    step: Callable[[], object]
    """Takes the optimizer's step."""
    local: LocalSGD | None = None
    """What averages, where it is ours."""
    num_steps: int = 0
    """Steps so far."""

    def train(self, num_steps: int) -> None:
        """Take steps."""
        for _ in range(num_steps):
            images, labels = self.task.batches[self.num_steps % len(self.task.batches)]
            loss = cross_entropy(self.task.forward(self.model, images), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
            self.step()
            self.optimizer.zero_grad()
            self.num_steps += 1

    def finish(self) -> None:
        """Average what is not averaged yet."""
        if self.local is not None:
            self.local.finish()

    def parameters(self) -> Tensor:
        """Give all parameters as one vector."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.model.parameters()])

    def wire_bytes(self) -> int | None:
        """Give the bytes that this worker has sent, by its own account; ``None`` where nobody counts."""
        return None if self.local is None else self.local.totals.wire_bytes


Maker = Callable[[nn.Module, Task], Trainee]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of training."""

    make: Maker
    """Makes one around a model in its memory format; every process must."""
    period: int | None
    """Steps from one sync between hosts to the next; ``None`` if there is none."""
    num_lead_steps: int = 0
    """Steps before the first block, after which nothing is under way at either end of a block."""
    is_predicted: bool = True
    """Whether steps and syncs of the whole vector take turns, so that compute + T / H is what a step should take."""


def training_ways(network: Network) -> dict[str, Way]:
    """List the ways of training, as far as this localsgd has them.

    Args:
        network: Hosts and processes. With other frames than Ethernet's there are only those that tell what overlap can hide.

    Returns:
        The ways by name, in the order in which every process has to make them.
    """
    found = {
        DDP: Way(make=_lean_ddp, period=1, is_predicted=False),
        EVERY_8: Way(make=_ours(schedule=Every(8)), period=8),
        ALONE: Way(make=_alone, period=None, is_predicted=False),
        BESIDE: Way(make=_beside, period=8, num_lead_steps=OVERLAP_STEPS, is_predicted=False),
    }
    if network.has_control:
        found[CONTROL] = found[DDP]
    if network.is_plain:
        found["DDP"] = Way(make=_ddp, period=1, is_predicted=False)
        found["localsgd, H = 1"] = Way(make=_ours(schedule=Every(1)), period=1, is_predicted=False)
        found[EVERY_32] = Way(make=_ours(schedule=Every(32)), period=32)
        for name, compressor in _COMPRESSORS.items():
            make = _ours(schedule=Every(8), compression=compressor)
            found[name] = Way(make=make, period=8, is_predicted=False)
    if network.is_plain and network.workers > 1:
        found |= _hosts_ways(network)
    make = _ours(schedule=Every(8), overlap_steps=OVERLAP_STEPS)
    found[OVERLAPPED] = Way(make=make, period=8, num_lead_steps=OVERLAP_STEPS, is_predicted=False)
    if network.is_plain:
        for name, compressor in _LATE_COMPRESSORS.items():
            if name not in refused_ways():
                make = _ours(schedule=Every(8), overlap_steps=OVERLAP_STEPS, compression=compressor)
                found[name] = Way(make=make, period=8, num_lead_steps=OVERLAP_STEPS, is_predicted=False)
    return found


@functools.cache
def refused_ways() -> Mapping[str, str]:
    """List the contestants that combine what this localsgd does not, with its reason, as one process alone hears it."""
    found = {}
    for name, compressor in _LATE_COMPRESSORS.items():
        model = with_parameters([(8,)])
        options: dict[str, Any] = {"compression": compressor, "overlap_steps": OVERLAP_STEPS}
        try:
            LocalSGD(model, SGD(model.parameters(), lr=LEARNING_RATE), Every(8), communicator=OneProcess(), **options)
        except ArgumentError as error:
            found[name] = str(error)
    return MappingProxyType(found)


@dataclass(frozen=True, kw_only=True)
class Summing:
    """A way of summing a vector over the processes."""

    sync: Callable[[], object]
    """Does it once."""
    wire_bytes: Callable[[], int | None] = field(default=lambda: None)
    """Gives the bytes that this worker has sent, by its own account; ``None`` where nobody counts."""


def summing_ways(network: Network, num_values: int) -> dict[str, Summing]:
    """Make the ways of summing a vector; every process must.

    Args:
        network: Hosts and processes.
        num_values: Length of the vector, of float32.

    Returns:
        The ways by name. Only the first process of each host takes part in the floor.
    """
    by_host = [range(first, first + network.workers) for first in range(0, network.num_processes, network.workers)]
    leaders = dist.new_group([processes[0] for processes in by_host])
    is_leader = dist.get_rank() % network.workers == 0
    vector = torch.zeros(num_values)
    found = {
        FLOOR_SUM: Summing(sync=lambda: dist.all_reduce(vector, group=leaders) if is_leader else None),
        RAW_SUM: Summing(sync=lambda: dist.all_reduce(vector)),
        FLAT_SUM: _syncing(num_values, schedule=Never()),
    }
    if network.workers > 1:
        schedule, topology = Hierarchical([Never(), Never()]), Topology((network.workers, network.hosts))
        found[HOSTS_SUM] = _syncing(num_values, schedule=schedule, topology=topology)
        if "sort_ranks" in inspect.signature(dist.new_group).parameters:
            in_turn = [rank for ranks in zip(*by_host, strict=True) for rank in ranks]
            communicator = Processes(dist.new_group(in_turn, sort_ranks=False))
            found[INTERLEAVED_SUM] = _syncing(num_values, schedule=Never(), communicator=communicator)
    return found


_COMPRESSORS: Mapping[str, Any] = MappingProxyType(
    {
        BFLOAT16: compression.BFloat16(),
        "localsgd, H = 8, Int8": compression.Int8(),
        "localsgd, H = 8, ErrorFeedback(Sign)": compression.ErrorFeedback(compression.Sign()),
    }
)
_LATE_COMPRESSORS: Mapping[str, Any] = MappingProxyType(
    {
        f"{OVERLAPPED}, Int8": compression.Int8(),
        f"{OVERLAPPED}, ErrorFeedback(Int4)": compression.ErrorFeedback(compression.Int4()),
    }
)


def _hosts_ways(network: Network) -> dict[str, Way]:
    topology = Topology((network.workers, network.hosts))
    found = {}
    for name, schedule, period, compressor in (
        (BY_HOST, Hierarchical([8, 1]), 8, None),
        ("localsgd, H = 8 in a host, 32 between", Hierarchical([8, 4]), 32, None),
        ("localsgd, H = 1 in a host, 32 between", Hierarchical([1, 32]), 32, None),
        (f"{BY_HOST}, BFloat16", Hierarchical([8, 1]), 8, _COMPRESSORS[BFLOAT16]),
    ):
        make = _ours(schedule=schedule, topology=topology, compression=compressor)
        found[name] = Way(make=make, period=period, is_predicted=False)
    return found


def _syncing(num_values: int, **options: Any) -> Summing:
    model = with_parameters([(num_values,)])
    local = LocalSGD(model, SGD(model.parameters(), lr=LEARNING_RATE), **options)
    return Summing(sync=local.sync, wire_bytes=lambda: local.totals.wire_bytes)


def _optimizer(model: nn.Module, task: Task) -> Optimizer:
    return make_optimizer(model, task.config.optimizer, learning_rate=LEARNING_RATE)


def _alone(model: nn.Module, task: Task) -> Trainee:
    optimizer = _optimizer(model, task)
    return Trainee(task=task, model=model, optimizer=optimizer, step=optimizer.step)


def _beside(model: nn.Module, task: Task) -> Trainee:
    """Nothing is learnt from the sum: what computation still loses to it is what the cores spend on sending."""
    trainee, under_way = _alone(model, task), []
    vector = torch.zeros(sum(t.numel() for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()))

    def step() -> None:
        trainee.optimizer.step()
        taken = trainee.num_steps + 1
        if taken % 8 == 0:
            under_way.append(dist.all_reduce(vector, async_op=True))
        elif taken % 8 == OVERLAP_STEPS and under_way:
            under_way.pop().wait()

    trainee.step = step
    return trainee


def _ddp(model: nn.Module, task: Task) -> Trainee:
    return _alone(DistributedDataParallel(model), task)


def _lean_ddp(model: nn.Module, task: Task) -> Trainee:
    return _alone(DistributedDataParallel(model, forward_sync_buffers=False), task)


def _ours(**options: Any) -> Maker:
    return functools.partial(_make_ours, options)


def _make_ours(options: dict[str, Any], model: nn.Module, task: Task) -> Trainee:
    optimizer = _optimizer(model, task)
    local = LocalSGD(model, optimizer, **options)
    return Trainee(task=task, model=model, optimizer=optimizer, step=local.step, local=local)
