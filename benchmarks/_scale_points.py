"""What sync_scale measures inside its processes: syncs of vectors of many sizes, and the floor on the same memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from _memory import trim
from _timing import interleave
from torch import Tensor, nn
from torch.optim import SGD

from localsgd import LocalSGD, Never, replicate

__all__ = ["FLOOR", "Group", "Model", "available_bytes", "measure_group", "measure_rows"]

FLOOR = "floor"
NUM_WARMUPS = 2
_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Model:
    """A synthetic model: a vector, cut into tensors of about the same length."""

    num_values: int
    """Parameters P, of float32."""
    num_tensors: int
    """Pieces."""

    def build(self) -> nn.Module:
        """Make it, of zeros that take no memory until they are moved into their row: numpy leaves them to the kernel."""
        module = nn.Module()
        ends = [self.num_values * (index + 1) // self.num_tensors for index in range(self.num_tensors)]
        for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            module.register_parameter(
                f"parameter_{index}", nn.Parameter(torch.from_numpy(np.zeros(end - start, np.float32)))
            )
        return module

    @property
    def num_bytes(self) -> int:
        """Bytes of its parameters."""
        return _BYTES * self.num_values


@dataclass(frozen=True, kw_only=True)
class Group:
    """Models whose syncs are timed in turn."""

    models: tuple[Model, ...]
    """The models; the floor is one raw collective over the vector of the first."""
    num_repeats: int
    """Repetitions that count."""
    seed: int
    """Seed of the orders."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all models in one process."""
        return sum(model.num_bytes for model in self.models)


def measure_group(group: Group) -> dict[str, list[float]]:
    """Time the syncs of a group; every process calls this.

    Args:
        group: The group.

    Returns:
        Seconds of the floor, by `FLOOR`, and of the models, by number; one figure a repetition.
    """
    locals_: list[LocalSGD] = []
    for model in group.models:
        module = model.build()
        locals_.append(LocalSGD(module, SGD(module.parameters(), lr=0.1), Never()))
    vector = _storage(locals_[0])[0]
    blocks: Mapping[str, Callable[[], Any]] = {
        FLOOR: lambda: dist.all_reduce(vector),
        **{str(index): local.sync for index, local in enumerate(locals_)},
    }
    return interleave(
        blocks, num_warmups=NUM_WARMUPS, num_repeats=group.num_repeats, seed=group.seed, before=dist.barrier
    )


def measure_rows(model: Model, repeats: Mapping[int, int], seed: int) -> dict[int, dict[str, list[float]]]:
    """Time the syncs of many rows in this process; belongs into a process of its own.

    Args:
        model: What each row holds.
        repeats: Repetitions that count, for each number of rows V.
        seed: Seed of the orders.

    Returns:
        As `measure_group`, by number of rows; the floor is one mean of a (V, P) tensor, copied to all rows.
    """
    torch.set_num_threads(1)
    found = {}
    for num_rows, num_repeats in repeats.items():
        found[num_rows] = _measure_rows(model, num_rows, num_repeats=num_repeats, seed=seed)
        trim()
    return found


def available_bytes() -> int | None:
    """Give the memory that new processes could take without swapping; ``None`` where the system does not tell."""
    path = Path("/proc/meminfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _measure_rows(model: Model, num_rows: int, *, num_repeats: int, seed: int) -> dict[str, list[float]]:
    models = replicate(model.build(), num_rows)
    local = LocalSGD(models, [SGD(m.parameters(), lr=0.1) for m in models], Never())
    matrix = _storage(local)

    def mean() -> None:
        matrix.copy_(matrix.mean(0))

    blocks: dict[str, Callable[[], object]] = {FLOOR: mean, "0": local.sync}
    return interleave(blocks, num_warmups=NUM_WARMUPS, num_repeats=num_repeats, seed=seed)


def _storage(local: LocalSGD) -> Tensor:
    (group,) = local.rows.groups
    return group.storage
