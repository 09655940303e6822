"""What happens once, when LocalSGD is constructed: checks, agreement between processes, a common start."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from localsgd._checks import require
from localsgd.buffers.flat import FlatRows
from localsgd.buffers.shards import local_part, reshard
from localsgd.communicators import Communicator, OneProcess, Processes, require_agreement
from localsgd.compression import PAYLOAD_VERSION, Compressor
from localsgd.errors import ArgumentError, DisagreementError
from localsgd.options import require_communicator, require_options
from localsgd.schedules import Every, Hierarchical, Schedule, WatchingSchedule
from localsgd.sharding import require_replicas_apart, require_sharded_options, worker_processes
from localsgd.topology import Topology

__all__ = [
    "agree",
    "as_models",
    "as_optimizers",
    "find_communicator",
    "find_compressor",
    "holds_ddp",
    "prepare",
    "prepare_everywhere",
    "reading",
    "schedules_by_level",
    "start_alike",
]

_T = TypeVar("_T")


def find_communicator(communicator: Communicator | None) -> Communicator:
    """Use the communicator that was passed, or the default one.

    Args:
        communicator: The communicator, or ``None``.

    Returns:
        It, or torch.distributed's world if that is initialised, else one process.

    Raises:
        ArgumentError: If something else was passed.
    """
    require_communicator(communicator)
    if communicator is not None:
        return communicator
    return Processes() if dist.is_available() and dist.is_initialized() else OneProcess()


def holds_ddp(models: Sequence[nn.Module]) -> bool:
    """Say whether a model lets DistributedDataParallel write its gradients after backward has left them.

    Args:
        models: The modules.

    Returns:
        Whether one of them is such a module, or has one inside.
    """
    return any(isinstance(module, DistributedDataParallel) for model in models for module in model.modules())


def as_models(model: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    """Make a list, one module a row.

    Args:
        model: A module or several.

    Returns:
        The modules.

    Raises:
        ArgumentError: If something else was passed.
    """
    models = [model] if isinstance(model, nn.Module) else list(model)
    for item in models:
        require(isinstance(item, nn.Module), f"model={item!r} must be an nn.Module, or a list of them, one a row.")
    return models


def as_optimizers(optimizer: Optimizer | Sequence[Optimizer], models: Sequence[nn.Module]) -> list[Optimizer]:
    """Make a list, one optimizer a row, each of which steps its own row's parameters and nothing else.

    Args:
        optimizer: An optimizer or several.
        models: The rows' modules.

    Returns:
        The optimizers.

    Raises:
        ArgumentError: If the numbers differ, or an optimizer holds trainable tensors that are not in its model: nobody
            would average them.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    for item in optimizers:
        require(
            isinstance(item, Optimizer),
            f"optimizer={item!r} must be a torch.optim.Optimizer, or a list, one a row.",
        )
    require(
        len(optimizers) == len(models),
        f"optimizer has {len(optimizers)} entries for {len(models)} rows; construct one optimizer a model, over its own "
        "parameters.",
    )
    for row, (model, own) in enumerate(zip(models, optimizers, strict=True)):
        known = {id(parameter) for parameter in model.parameters()}
        foreign = [p for group in own.param_groups for p in group["params"] if p.requires_grad and id(p) not in known]
        shapes = [list(parameter.shape) for parameter in foreign]
        require(
            not foreign,
            f"optimizer of row {row} steps trainable tensors of shapes {shapes} that are not parameters of its model, "
            "so they would never be averaged; construct it from model.parameters(), in the same order of rows.",
        )
    return optimizers


def prepare_everywhere(communicator: Communicator, prepare: Callable[[], _T]) -> _T:
    """Do what may fail on one process only, and raise on all of them if it does.

    Args:
        communicator: The processes.
        prepare: What to do; exchanges nothing.

    Returns:
        What ``prepare`` returned.

    Raises:
        ArgumentError: If it was raised here or on another process.
        DisagreementError: Likewise.

    Cost:
        One exchange of small objects. Every process must call this.
    """
    result: list[_T] = []
    failure: ArgumentError | DisagreementError | None = None
    try:
        result.append(prepare())
    except (ArgumentError, DisagreementError) as error:
        failure = error
    failures = communicator.gather(None if failure is None else (type(failure), str(failure)))
    if failure is not None:
        raise failure
    for rank, theirs in enumerate(failures):
        if theirs is not None:
            kind, message = theirs
            raise kind(f"process {rank} of {len(failures)}: {message}")
    return result[0]


def prepare(
    model: nn.Module | Sequence[nn.Module],
    optimizer: Optimizer | Sequence[Optimizer],
    communicator: Communicator,
    *,
    options: Mapping[str, Any],
) -> tuple[list[nn.Module], list[Optimizer], FlatRows]:
    """Check options, models and optimizers, move the models into rows, and compare all processes.

    Args:
        model: A module or several.
        optimizer: An optimizer or several.
        communicator: The processes.
        options: The options of `LocalSGD`, by name.

    Returns:
        The modules and the optimizers, one a row, and the rows.

    Raises:
        ArgumentError: If something cannot be honoured, here or on another process.
        DisagreementError: If rows or processes differ; on every process.

    Cost:
        Three exchanges of small objects; two more among the processes of a sharded worker. Every process must call this.
    """
    worker = worker_processes(model)

    def make() -> tuple[list[nn.Module], list[Optimizer], FlatRows]:
        require_options(options)
        models = as_models(model)
        reshard(models)
        optimizers, rows = as_optimizers(optimizer, models), FlatRows(models)
        require_sharded_options(rows, options)
        return models, optimizers, rows

    def compare() -> tuple[list[nn.Module], list[Optimizer], FlatRows]:
        models, optimizers, rows = prepare_everywhere(communicator, make)
        require_replicas_apart(rows, communicator)
        agree(optimizers, communicator, options=options, rows=rows)
        return models, optimizers, rows

    models, optimizers, rows = prepare_everywhere(worker, compare)
    agree(optimizers, worker, options=options)  # their tensors differ: each has a part of its own
    return models, optimizers, rows


def agree(
    optimizers: Sequence[Optimizer],
    communicator: Communicator,
    *,
    options: Mapping[str, Any],
    rows: FlatRows | None = None,
) -> None:
    """Compare all processes before the first sync.

    Args:
        optimizers: One optimizer a row.
        communicator: The processes.
        options: Everything else that must be alike, by name; compared by its ``repr``.
        rows: The workers of this process; ``None`` where processes are not to hold the same tensors.

    Raises:
        DisagreementError: If processes differ; on every process.
    """
    facts = {} if rows is None else {"rows a process:": [str(rows.num_rows)], "tensor": rows.facts()}
    facts |= {"option": [f"{name}={value!r}" for name, value in options.items()]}
    facts |= {"payload version": [str(PAYLOAD_VERSION)], "optimizer": _optimizer_facts(optimizers)}
    require_agreement(communicator, facts)


def schedules_by_level(schedule: Schedule, topology: Topology, num_workers: int) -> tuple[Schedule, ...]:
    """Match a schedule with a topology.

    Args:
        schedule: When to sync.
        topology: Who averages with whom.
        num_workers: Workers there are (K).

    Returns:
        A schedule for each level, innermost first.

    Raises:
        ArgumentError: If the topology has another number of workers, or the schedule another number of levels.
    """
    require(
        topology.num_workers == num_workers,
        f"topology has {topology.num_workers} workers (block_sizes={topology.block_sizes}), but there are {num_workers}; "
        "the product of its block sizes must be rows a process times processes.",
    )
    schedules = schedule.schedules if isinstance(schedule, Hierarchical) else (schedule,)
    require(
        len(schedules) == topology.num_levels,
        f"schedule={schedule!r} has a rule for {len(schedules)} level(s), and topology={topology!r} has "
        f"{topology.num_levels}; name a period or a schedule for each level, for example "
        f"Hierarchical([{', '.join(['4'] * topology.num_levels)}]).",
    )
    for level, inner in enumerate(schedules[:-1], start=1):
        require(
            not isinstance(inner, WatchingSchedule),
            f"level {level}: {inner!r} watches what everyone shares, so it can only stand at the last level; use a schedule "
            "in steps for the levels below.",
        )
    return schedules


def find_compressor(
    compression: Compressor | Sequence[Compressor | None] | None, schedules: Sequence[Schedule], *, one_step_rounds: str
) -> Compressor | None:
    """Choose what makes the payloads when everyone averages.

    Args:
        compression: A compressor, or one a level, or none.
        schedules: When to sync at each level, innermost first.
        one_step_rounds: What a round of one step averages.

    Returns:
        The compressor of the last level; ``None`` if it has none.

    Raises:
        ArgumentError: If there is another number of levels, a level below the last has one, or it would never be used.
    """
    if compression is None:
        return None
    # An instance check of a Protocol looks at every attribute: a sequence has none of a compressor's.
    levels = [None] * (len(schedules) - 1) + [compression] if isinstance(compression, Compressor) else [*compression]
    require(
        len(levels) == len(schedules),
        f"compression={compression!r} has {len(levels)} entries for {len(schedules)} level(s); give one a level, innermost "
        "first, None where nothing is compressed, or a single one for the last level.",
    )
    for level, inner in enumerate(levels[:-1], start=1):
        require(
            inner is None,
            f"compression: level {level} has {inner!r}, and only the last level can have a compressor: payloads tell "
            "changes since a sync of everyone, and a block that averages by itself in between keeps no anchor of its own; "
            "use None for it.",
        )
    last = levels[-1]
    require(
        last is None or schedules[-1] != Every(1) or one_step_rounds == "parameters",
        f"compression={compression!r} would never be used with {schedules[-1]!r}: rounds of one step average gradients, "
        "which are not compressed; use a longer period, or one_step_rounds='parameters'.",
    )
    return last


@contextmanager
def reading(state: Mapping[str, Any], *, version: int, num_workers: int) -> Iterator[None]:
    """Check that a saved state is of this version and of as many workers, and read it inside a ``with`` block.

    Args:
        state: What `LocalSGD.state_dict` returned.
        version: The version that can be read.
        num_workers: Workers there are (K).

    Raises:
        ArgumentError: If it is not, or something in it is missing.
    """
    saved, workers = state.get("version"), state.get("num_workers")
    require(saved == version, f"state has version {saved}, this one reads version {version} only.")
    require(
        workers == num_workers,
        f"state was saved by {workers} workers, there are {num_workers} now; resume with as many.",
    )
    try:
        yield
    except KeyError as error:
        raise ArgumentError(f"state lacks {error}; load all that state_dict() returned.") from error


def start_alike(models: Sequence[nn.Module], rows: FlatRows, communicator: Communicator) -> None:
    """Give every worker the values of worker 0: parameters, frozen ones included, and module buffers.

    Args:
        models: One module a row.
        rows: Their rows.
        communicator: The processes.

    Cost:
        One broadcast a group, and one for each frozen parameter or integer buffer. Every process must call this.
    """
    for group in rows.groups:
        communicator.broadcast_(group.storage[0])
        group.storage[1:] = group.storage[0]
    flat = {id(t) for group in rows.groups for row in range(rows.num_rows) for t in group.tensors(row)}
    others = [[local_part(t) for t in _tensors(model) if id(t) not in flat] for model in models]
    for same in zip(*others, strict=True):
        contiguous = same[0].contiguous()
        communicator.broadcast_(contiguous)
        for tensor in same:
            tensor.copy_(contiguous)


def _tensors(model: nn.Module) -> list[Tensor]:
    values = model.state_dict(keep_vars=True).values()
    return [value for value in values if isinstance(value, Tensor) and value.device.type != "meta"]


def _optimizer_facts(optimizers: Sequence[Optimizer]) -> list[str]:
    lines = []
    for row, optimizer in enumerate(optimizers):
        for index, group in enumerate(optimizer.param_groups):
            numbers = {name: _plain(value) for name, value in group.items() if name != "params"}
            scalars = " ".join(f"{name}={value}" for name, value in numbers.items() if value is not None)
            lines.append(
                f"{type(optimizer).__name__} row {row} group {index}: {len(group['params'])} tensors {scalars}"
            )
    return lines


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return value if isinstance(value, bool | int | float | str | tuple) else None
