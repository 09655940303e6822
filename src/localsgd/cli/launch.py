"""Which processes take part: this one alone, or those that torchrun has started, and the device of each."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
import typer

from localsgd._checks import require, require_choice
from localsgd.communicators import Communicator, OneProcess, Processes, SharedMemory
from localsgd.errors import ArgumentError

__all__ = ["POOL_MARK", "Launch", "choose_device", "joined", "read_launch"]

POOL_MARK = "LOCALSGD_POOL"
"""In the environment of processes that this program has started itself."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Place of this process among those that a launcher has started."""

    rank: int
    """Number of this process."""

    world_size: int
    """Number of processes."""

    local_rank: int
    """Number of this process on its machine."""

    local_world_size: int
    """Number of processes on its machine."""

    is_pool: bool = False
    """Whether this program has started them by itself, on this machine alone."""


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Read what torchrun has put into the environment.

    Args:
        environment: Names and values.

    Returns:
        The place of this process; ``None`` if it was not started by a launcher.

    Raises:
        ArgumentError: If the environment is incomplete or makes no sense.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    rank, world_size = (_read_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
    require(rank < world_size, f"RANK={rank} must be < WORLD_SIZE={world_size}; start the processes with torchrun.")
    return Launch(
        rank=rank,
        world_size=world_size,
        local_rank=_read_number(environment, "LOCAL_RANK"),
        local_world_size=_read_number(environment, "LOCAL_WORLD_SIZE"),
        is_pool=POOL_MARK in environment,
    )


def choose_device(name: str, launch: Launch | None) -> torch.device:
    """Find the device that was asked for.

    Args:
        name: ``cpu``, ``cuda``, or ``auto``: ``cuda`` if there is one, else ``cpu``.
        launch: Place of this process, if a launcher started it.

    Returns:
        The device; on a machine with several GPUs the one with this process's local number.

    Raises:
        ArgumentError: If the name is not known, or there is no such device for every process of this machine.
    """
    require_choice("--device", name, ("auto", "cpu", "cuda"))
    num_devices = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and num_devices == 0):
        return torch.device("cpu")
    require(
        num_devices > 0,
        f"--device cuda: PyTorch {torch.__version__} sees no CUDA device here; use --device cpu.",
    )
    num_local = 1 if launch is None else launch.local_world_size
    require(
        num_local <= num_devices,
        f"--device {name}: {num_local} processes need a GPU each, and this machine has {num_devices}; "
        f"start {num_devices} and hold several workers in each, or use --device cpu.",
    )
    return torch.device("cuda", 0 if launch is None else launch.local_rank)


@contextlib.contextmanager
def joined(launch: Launch | None, device: torch.device) -> Iterator[Communicator]:
    """Join the processes of a launch; leave them at the end.

    Args:
        launch: Place of this process; ``None`` joins nothing.
        device: What this process computes on.

    Yields:
        How to reach the other processes.

    Raises:
        ArgumentError: If the others cannot be found.
        Exit: If the block raises it, which it does on every process alike.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launch is None:
        yield OneProcess()
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:
        raise ArgumentError(f"the processes cannot find each other ({error}); start them with torchrun.") from error
    communicator = _share_memory(Processes()) if launch.is_pool and device.type == "cpu" else Processes()
    # Not in a finally: after a failure others may be waiting in a collective, and leaving could wait for them.
    try:
        yield communicator
    except typer.Exit:
        dist.destroy_process_group()
        raise
    except BaseException:
        if isinstance(communicator, SharedMemory):
            communicator.close()  # which others notice, and waits for nobody
        raise
    dist.destroy_process_group()


def _share_memory(processes: Processes) -> Communicator:
    try:
        return SharedMemory(processes)
    except ArgumentError as error:  # raised on every process alike
        if processes.rank == 0:
            reason = str(error).removesuffix(".")
            print(f"warning: {reason}. The processes exchange through sockets, which is slower.", file=sys.stderr)
        return processes


def _read_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    require(
        text.isdecimal(),
        f"{name}={text!r} in the environment must be a whole number; start the processes with torchrun.",
    )
    return int(text)
