"""The contestants of sync_cost that share one environment: ways of replacing every process's parameters by their mean."""

import importlib
import importlib.util
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from _bare_models import Shape, with_parameters
from _sync_measuring import FLOOR, Contestant, raw_all_reduce
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.algorithms.model_averaging.hierarchical_model_averager import HierarchicalModelAverager
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from localsgd import Communicator, LocalSGD, Never, Processes
from localsgd.communicators import SharedMemory

__all__ = ["CONTESTANTS", "CONTROL", "FLOOR", "OURS", "absent", "available"]

CONTROL = "raw all_reduce, again"
OURS = "localsgd"


def _all_reduce_and_divide(shapes: Sequence[Shape]) -> Contestant:
    """The least that leaves a mean: parameters that lie in one vector already, and no question asked."""
    raw = raw_all_reduce(shapes)
    (vector,), num_processes = raw.tensors(), dist.get_world_size()

    def sync() -> None:
        dist.all_reduce(vector)
        vector.div_(num_processes)

    return Contestant(tensors=raw.tensors, sync=sync)


def _localsgd(shapes: Sequence[Shape], communicator: Communicator | None = None) -> Contestant:
    model = with_parameters(shapes)
    local = LocalSGD(model, SGD(model.parameters(), lr=0.1), Never(), communicator=communicator)
    own_seconds: list[float] = []

    def sync() -> None:
        report = local.sync()
        own_seconds.append(report.seconds - report.seconds_waited)

    return Contestant(tensors=lambda: list(model.parameters()), sync=sync, own_seconds=own_seconds)


def _localsgd_in_shared_memory(shapes: Sequence[Shape]) -> Contestant:
    """What `localsgd train` does with the processes that it starts on one machine."""
    return _localsgd(shapes, SharedMemory(Processes()))


class _Backward(nn.Module):
    """Parameters whose gradients are there at once: the backward pass of a network that computes nothing."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.model = with_parameters(shapes)
        self.value = torch.zeros(())  # of every gradient: an expanded number takes no time to read
        self.sources = [self.value.expand(shape) for shape in shapes]
        self.forget()

    def forward(self) -> Tensor:
        loss: Tensor = _HandOut.apply(self.sources, *self.parameters())  # type: ignore[no-untyped-call]  # torch has no annotation for it
        return loss

    def forget(self) -> None:
        """Do what `zero_grad()` does."""
        for parameter in self.parameters():
            parameter.grad = None


class _HandOut(torch.autograd.Function):
    """A number that depends on all parameters, by gradients that are given beforehand."""

    @staticmethod
    def forward(ctx: Any, sources: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.sources = sources
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        del gradients  # of the number itself: one
        return None, *ctx.sources


def _ddp(shapes: Sequence[Shape], **options: Any) -> Contestant:
    """DDP's mean of gradients: writing them, DDP's copies into buckets and back, and its collectives."""
    module = _Backward(shapes)
    ddp = DistributedDataParallel(module, **options)

    def sync() -> None:
        module.forget()
        ddp().backward()

    def means() -> list[Tensor]:
        return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]

    return Contestant(tensors=lambda: [module.value], sync=sync, results=means)


def _ddp_with_views(shapes: Sequence[Shape]) -> Contestant:
    return _ddp(shapes, gradient_as_bucket_view=True)


def _pytorch_averager(shapes: Sequence[Shape]) -> Contestant:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="When period is 1")  # it averages at every call, as wanted here
        averager = PeriodicModelAverager(period=1, warmup_steps=0)
    return _with_averager(shapes, averager)


def _pytorch_hierarchical_averager(shapes: Sequence[Shape]) -> Contestant:
    """The average of its last level, everybody; the levels below are of two processes each, where there are more."""
    size = dist.get_world_size()
    levels = OrderedDict([(1, 2), (2, size)] if size > 2 else [(1, size)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="When the maximum period")  # likewise
        averager = HierarchicalModelAverager(levels)  # type: ignore[no-untyped-call]  # torch has no annotation for it

    def rewind() -> None:
        averager.step = 0  # every period divides it

    return _with_averager(shapes, averager, before=rewind)


def _with_averager(shapes: Sequence[Shape], averager: Any, before: Callable[[], None] = lambda: None) -> Contestant:
    model = with_parameters(shapes)

    def sync() -> None:
        before()
        averager.average_parameters(model.parameters())

    return Contestant(tensors=lambda: [p.data for p in model.parameters()], sync=sync)


def _accelerate(shapes: Sequence[Shape]) -> Contestant:
    """The LocalSGD of accelerate as it is; ``step()`` with ``local_sgd_steps=1`` is its sync."""
    accelerate: Any = importlib.import_module("accelerate")  # may be absent, so not at the top
    accelerate_local_sgd: Any = importlib.import_module("accelerate.local_sgd")
    model = with_parameters(shapes)
    theirs = accelerate_local_sgd.LocalSGD(accelerate.Accelerator(cpu=True), model, local_sgd_steps=1)
    return Contestant(tensors=lambda: [p.data for p in model.parameters()], sync=theirs.step)


def _one_by_one(shapes: Sequence[Shape]) -> Contestant:
    parameters, num_processes = list(with_parameters(shapes).parameters()), dist.get_world_size()

    @torch.no_grad()
    def sync() -> None:
        for parameter in parameters:
            dist.all_reduce(parameter)
            parameter.div_(num_processes)

    return Contestant(tensors=lambda: parameters, sync=sync)


CONTESTANTS: Mapping[str, Callable[[Sequence[Shape]], Contestant]] = MappingProxyType(
    {
        FLOOR: raw_all_reduce,
        CONTROL: raw_all_reduce,
        "all_reduce, then divide": _all_reduce_and_divide,
        OURS: _localsgd,
        "localsgd, shared memory": _localsgd_in_shared_memory,
        "DDP, a backward pass": _ddp,
        "DDP(gradient_as_bucket_view=True)": _ddp_with_views,
        "PyTorch PeriodicModelAverager": _pytorch_averager,
        "PyTorch HierarchicalModelAverager": _pytorch_hierarchical_averager,
        "accelerate LocalSGD": _accelerate,
        "one collective a parameter": _one_by_one,
    }
)
"""Every contestant by its name: makes one for parameters of given shapes. Every process must make the same."""


def absent() -> dict[str, str]:
    """Say which contestants cannot run here, and why not: accelerate is a development dependency."""
    reason = "accelerate is not in this environment (a development dependency; `make setup` installs it)"
    has_accelerate = importlib.util.find_spec("accelerate") is not None
    return {name: reason for name in CONTESTANTS if name.startswith("accelerate") and not has_accelerate}


def available() -> list[str]:
    """List the contestants that can run here."""
    return [name for name in CONTESTANTS if name not in absent()]
