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
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from localsgd import Every, Hierarchical, LocalSGD, Never, Topology, compression

__all__ = [
    "ALONE",
    "BESIDE",
    "BFLOAT16",
    "BY_HOST",
    "DDP",
    "EVERY_8",
    "EVERY_32",
    "FLAT_SUM",
    "FLOOR_SUM",
    "HOSTS_SUM",
    "OVERLAPPED",
    "Summing",
    "Trainee",
    "Way",
    "missing_options",
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


@dataclass(kw_only=True)
class Trainee:
    """A model, and how it is trained."""

    model: nn.Module
    """What computes the loss."""
    optimizer: SGD
    """Its optimizer."""
    step: Callable[[], object]
    """Takes the optimizer's step."""
    batches: list[tuple[Tensor, Tensor]]
    """What it is trained on, again and again."""
    local: LocalSGD | None = None
    """What averages, where it is ours."""
    num_steps: int = 0
    """Steps so far."""

    def train(self, num_steps: int) -> None:
        """Take steps."""
        for _ in range(num_steps):
            images, labels = self.batches[self.num_steps % len(self.batches)]
            loss = cross_entropy(self.model(images), labels)
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
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    def wire_bytes(self) -> int | None:
        """Give the bytes that this worker has sent, by its own account; ``None`` where nobody counts."""
        return None if self.local is None else self.local.totals.wire_bytes


Maker = Callable[[nn.Module, list[tuple[Tensor, Tensor]]], Trainee]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of training."""

    make: Maker
    """Makes one around a model and batches; every process must."""
    period: int | None
    """Steps from one sync between hosts to the next; ``None`` if there is none."""
    num_lead_steps: int = 0
    """Steps before the first block, after which nothing is under way at either end of a block."""
    is_predicted: bool = True
    """Whether steps and syncs of the whole vector take turns, so that compute + T / H is what a step should take."""


def training_ways(hosts: int, workers: int) -> dict[str, Way]:
    """List the ways of training, as far as this localsgd has them.

    Args:
        hosts: Hosts there are.
        workers: Processes on each.

    Returns:
        The ways by name, in the order in which every process has to make them.
    """
    found = {
        DDP: Way(make=_lean_ddp, period=1, is_predicted=False),
        CONTROL: Way(make=_lean_ddp, period=1, is_predicted=False),
        "DDP": Way(make=_ddp, period=1, is_predicted=False),
        "localsgd, H = 1": Way(make=_ours(schedule=Every(1)), period=1, is_predicted=False),
        EVERY_8: Way(make=_ours(schedule=Every(8)), period=8),
        EVERY_32: Way(make=_ours(schedule=Every(32)), period=32),
        ALONE: Way(make=_alone, period=None, is_predicted=False),
        BESIDE: Way(make=_beside, period=8, num_lead_steps=OVERLAP_STEPS, is_predicted=False),
    }
    if workers > 1:
        topology = Topology((workers, hosts))
        for name, schedule, period in (
            (BY_HOST, Hierarchical([8, 1]), 8),
            ("localsgd, H = 8 in a host, 32 between", Hierarchical([8, 4]), 32),
            ("localsgd, H = 1 in a host, 32 between", Hierarchical([1, 32]), 32),
        ):
            make = _ours(schedule=schedule, topology=topology)
            found[name] = Way(make=make, period=period, is_predicted=False)
    if "compression" not in missing_options():
        for name, compressor in _COMPRESSORS.items():
            make = _ours(schedule=Every(8), compression=compressor)
            found[name] = Way(make=make, period=8, is_predicted=False)
        if workers > 1:
            options = {"schedule": Hierarchical([8, 1]), "topology": Topology((workers, hosts))}
            make = _ours(**options, compression=_COMPRESSORS[BFLOAT16])
            found[f"{BY_HOST}, BFloat16"] = Way(make=make, period=8, is_predicted=False)
    if "overlap_steps" not in missing_options():
        make = _ours(schedule=Every(8), overlap_steps=OVERLAP_STEPS)
        found[OVERLAPPED] = Way(make=make, period=8, num_lead_steps=OVERLAP_STEPS, is_predicted=False)
    return found


def missing_options() -> list[str]:
    """List the options of LocalSGD that contestants need, and that this localsgd does not have."""
    known = inspect.signature(LocalSGD).parameters
    return [name for name in ("compression", "overlap_steps") if name not in known]


@dataclass(frozen=True, kw_only=True)
class Summing:
    """A way of summing a vector over the processes."""

    sync: Callable[[], object]
    """Does it once."""
    wire_bytes: Callable[[], int | None] = field(default=lambda: None)
    """Gives the bytes that this worker has sent, by its own account; ``None`` where nobody counts."""


def summing_ways(hosts: int, workers: int, *, num_values: int) -> dict[str, Summing]:
    """Make the ways of summing a vector; every process must.

    Args:
        hosts: Hosts there are.
        workers: Processes on each.
        num_values: Length of the vector, of float32.

    Returns:
        The ways by name. Only the first process of each host takes part in the floor.
    """
    leaders = dist.new_group([host * workers for host in range(hosts)])
    is_leader = dist.get_rank() % workers == 0
    vector = torch.zeros(num_values)
    found = {
        FLOOR_SUM: Summing(sync=lambda: dist.all_reduce(vector, group=leaders) if is_leader else None),
        RAW_SUM: Summing(sync=lambda: dist.all_reduce(vector)),
        FLAT_SUM: _syncing(num_values, schedule=Never()),
    }
    if workers > 1:
        schedule, topology = Hierarchical([Never(), Never()]), Topology((workers, hosts))
        found[HOSTS_SUM] = _syncing(num_values, schedule=schedule, topology=topology)
    return found


_COMPRESSORS: Mapping[str, Any] = MappingProxyType(
    {
        BFLOAT16: compression.BFloat16(),
        "localsgd, H = 8, Int8": compression.Int8(),
        "localsgd, H = 8, ErrorFeedback(Sign)": compression.ErrorFeedback(compression.Sign()),
    }
)


def _syncing(num_values: int, **options: Any) -> Summing:
    model = with_parameters([(num_values,)])
    local = LocalSGD(model, SGD(model.parameters(), lr=LEARNING_RATE), **options)
    return Summing(sync=local.sync, wire_bytes=lambda: local.totals.wire_bytes)


def _optimizer(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)


def _alone(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Trainee:
    optimizer = _optimizer(model)
    return Trainee(model=model, optimizer=optimizer, step=optimizer.step, batches=batches)


def _beside(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Trainee:
    """Nothing is learnt from the sum: what computation still loses to it is what the cores spend on sending."""
    optimizer, under_way = _optimizer(model), []
    vector = torch.zeros(sum(t.numel() for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()))
    trainee = Trainee(model=model, optimizer=optimizer, step=optimizer.step, batches=batches)

    def step() -> None:
        optimizer.step()
        taken = trainee.num_steps + 1
        if taken % 8 == 0:
            under_way.append(dist.all_reduce(vector, async_op=True))
        elif taken % 8 == OVERLAP_STEPS and under_way:
            under_way.pop().wait()

    trainee.step = step
    return trainee


def _ddp(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Trainee:
    return _alone(DistributedDataParallel(model), batches)


def _lean_ddp(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Trainee:
    return _alone(DistributedDataParallel(model, forward_sync_buffers=False), batches)


def _ours(**options: Any) -> Maker:
    return functools.partial(_make_ours, options)


def _make_ours(options: dict[str, Any], model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Trainee:
    optimizer = _optimizer(model)
    local = LocalSGD(model, optimizer, **options)
    return Trainee(model=model, optimizer=optimizer, step=local.step, batches=batches, local=local)
