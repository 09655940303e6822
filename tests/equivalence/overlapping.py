"""The loop of one process whose gradients are sent in many small buckets, with room for what users do in between."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from localsgd import Every, LocalSGD, Schedule
from localsgd.gradients import mean as gradients
from tests.equivalence.plain import Batch, loss_of

__all__ = ["num_ahead", "pipeline_of", "small_buckets", "train_ahead"]


@contextmanager
def small_buckets() -> Iterator[None]:
    """Let even the models of the tests fill several buckets."""
    sizes = gradients.FIRST_BUCKET_BYTES, gradients.BUCKET_BYTES
    gradients.FIRST_BUCKET_BYTES, gradients.BUCKET_BYTES = 64, 128
    try:
        yield
    finally:
        gradients.FIRST_BUCKET_BYTES, gradients.BUCKET_BYTES = sizes


def pipeline_of(local: LocalSGD, level: int = 1) -> Any:
    """What sends gradients ahead at a level; ``None`` where nothing does."""
    return local._synchronizer.gradients._means[level - 1][0].pipeline


def num_ahead(local: LocalSGD, level: int = 1) -> int:
    """How many buckets are under way."""
    pipeline = pipeline_of(local, level)
    return 0 if pipeline is None else pipeline.num_started


def train_ahead(
    make_model: Callable[[], nn.Module],
    make_optimizer: Callable[[Any], Optimizer],
    data: Sequence[Sequence[Batch]],
    *,
    schedule: Schedule | None = None,
    backward: Callable[[LocalSGD, nn.Module, Batch, int], None] | None = None,
    **options: Any,
) -> tuple[dict[str, Tensor], list[int]]:
    """Train this process's single worker; gives its state, and for each step how many buckets backward has started.

    Args:
        make_model: Makes the model.
        make_optimizer: Makes its optimizer.
        data: One batch a step and process.
        schedule: Default: a sync after each step.
        backward: What stands between ``zero_grad`` and ``local.step()``, from LocalSGD, model, batch and step.
        **options: Options of LocalSGD.
    """
    model, rank = make_model(), dist.get_rank()
    optimizer = make_optimizer(model.parameters())
    started = []
    with small_buckets():
        local = LocalSGD(model, optimizer, schedule or Every(1), **options)
        for step, row in enumerate(data):
            if backward is None:
                loss_of(model, row[rank]).backward()
            else:
                backward(local, model, row[rank], step)
            started.append(num_ahead(local))
            local.step()
            optimizer.zero_grad()
        local.finish()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, started
