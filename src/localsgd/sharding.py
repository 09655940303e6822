"""What must hold where workers are sharded over several processes (fully_shard), each of which averages its own part."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import nn

from localsgd._checks import require
from localsgd.buffers.flat import FlatRows
from localsgd.buffers.homes import is_sharded
from localsgd.communicators import Communicator, OneProcess, Processes
from localsgd.schedules import Hierarchical, WatchingSchedule

__all__ = ["require_replicas_apart", "require_sharded_options", "worker_processes"]


def worker_processes(model: nn.Module | Sequence[nn.Module]) -> Communicator:
    """Find the processes that hold parts of the same worker as this one.

    Args:
        model: A module, which alone can be sharded, or several; whatever is wrong with them is found later.

    Returns:
        They; this process alone where nothing is sharded, or over more than one dimension.
    """
    tensors = model.parameters() if isinstance(model, nn.Module) else ()
    sharded: list[Any] = [tensor for tensor in tensors if is_sharded(tensor)]
    if not sharded or sharded[0].device_mesh.ndim > 1:
        return OneProcess()
    return Processes(sharded[0].device_mesh.get_group())


def require_sharded_options(rows: FlatRows, options: Mapping[str, Any]) -> None:
    """Check that the options of `LocalSGD` can be honoured where workers are sharded.

    Args:
        rows: The workers of this process.
        options: By name.

    Raises:
        ArgumentError: If one of them cannot.
    """
    if not rows.shards:
        return
    refused = {
        "compression": (None, "payloads are made of whole rows; use None"),
        "overlap_steps": (0, "what is under way is a whole row; use 0"),
        "fragments": (1, "fragments are cut out of whole rows; use 1"),
    }
    for name, (fine, reason) in refused.items():
        value = options.get(name, fine)
        require(value == fine, f"{name}={value!r} cannot be combined with sharded parameters (fully_shard): {reason}.")
    require(
        options["optimizer_state"] != "average",
        "optimizer_state='average' cannot be combined with sharded parameters (fully_shard); use 'keep', as the paper "
        "does, or 'reset'.",
    )
    topology, schedule = options["topology"], options["schedule"]
    require(
        topology is None or topology.num_levels == 1,
        f"topology={topology!r} cannot be combined with sharded parameters (fully_shard): only one level of workers can be "
        "averaged; leave it out.",
    )
    inner = schedule.schedules if isinstance(schedule, Hierarchical) else (schedule,)
    watching = [own for own in inner if isinstance(own, WatchingSchedule)]
    for own in watching:
        require(
            not own.weighs_by_samples,
            f"schedule={own!r} cannot be combined with sharded parameters (fully_shard): the processes of one worker would "
            "end their round after different steps; use a schedule in steps.",
        )
    keeps_anchor = options["outer"].needs_anchor or options["measure_drift"] or any(own.needs_drift for own in watching)
    half = [shard.name for shard in rows.shards if shard.layout.dtype != shard.layout.accumulation_dtype]
    require(
        not (half and keeps_anchor),
        f"parameters {half} are sharded in half precision, too coarse for an outer optimizer or drift; keep them in float32 "
        "and compute in half precision: fully_shard(..., mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)).",
    )


def require_replicas_apart(rows: FlatRows, communicator: Communicator) -> None:
    """Check that the processes which are to average hold the same part of different workers.

    Args:
        rows: The workers of this process.
        communicator: The processes that are to average.

    Raises:
        ArgumentError: If two of them hold parts of the same worker, or some hold whole workers and others parts; on every
            process.

    Cost:
        One exchange of small objects. Every process must call this.
    """
    own = rows.shards[0].mesh.mesh.flatten().tolist() if rows.shards else None
    place = None if own is None else (dist.get_rank(), own)
    told = communicator.gather(place)
    sharded = [there for there in told if there is not None]
    require(
        len(sharded) in {0, len(told)},
        f"of {len(told)} processes that are to average, {len(sharded)} have sharded parameters (fully_shard) and the others "
        "whole ones; shard all workers alike.",
    )
    for process, (rank, mesh) in enumerate(sharded):
        others = [other for other, _ in sharded if other != rank and other in mesh]
        require(
            not others,
            f"process {process} of {len(told)} (rank {rank}) holds a part of the same worker as ranks {others}, with which "
            "it is to average: they are different values. Make a mesh of two dimensions, init_device_mesh(device, (workers, "
            'processes_per_worker), mesh_dim_names=("replicate", "shard")), and pass '
            'communicator=Processes(mesh.get_group("replicate")) beside fully_shard(model, mesh=mesh["shard"]).',
        )
    places = [mesh.index(rank) for rank, mesh in sharded]
    require(
        len(set(places)) <= 1,
        f"the processes that are to average hold different parts of their workers (part {places}); pass the group of those "
        'with the same part, communicator=Processes(mesh.get_group("replicate")).',
    )
