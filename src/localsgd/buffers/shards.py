"""Parameters that stay where they are: the parts that fully_shard (FSDP2) leaves in a process."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from localsgd._checks import require
from localsgd.buffers.homes import Home, is_sharded
from localsgd.buffers.layout import Entry, Layout

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Shard", "as_row", "local_part", "make_shards", "reshard"]


@final
class Shard:
    """This process's part of one parameter, which looks like a row of a single tensor to whoever averages.

    `torch.distributed.fsdp.fully_shard` keeps an address of its own of each part, so a part cannot become a view into a row.

    Attributes:
        layout: One parameter without gaps; no slots and no buffers.
        mesh: The processes that hold the other parts.
    """

    def __init__(self, home: Home) -> None:
        """Look at a parameter; its values stay where they are.

        Args:
            home: Where the parameter hangs; a DTensor.

        Raises:
            ArgumentError: If the parameter is not cut along one dimension over one dimension of processes.
        """
        self._home = home
        self._rows = ((home.tensor,),)
        parameter: Any = home.tensor
        self.mesh: DeviceMesh = parameter.device_mesh
        _require_cut_once(home.name, self.mesh, parameter.placements)
        part = local_part(parameter)
        require(
            part.is_contiguous(),
            f"parameter {home.name!r}: its shard has strides {part.stride()}; only contiguous shards are averaged.",
        )
        self.layout = Layout(
            dtype=part.dtype,
            device=part.device,
            parameters=(Entry(name=home.name, shape=tuple(part.shape), stride=part.stride(), offset=0),),
            buffers=(),
            num_parameters=part.numel(),
            num_buffers=0,
            num_slots=0,
            note=f", {parameter.placements[0]!r} of {list(parameter.shape)} over {self.mesh.size()} processes",
        )

    @property
    def storage(self) -> Tensor:
        """The part as the only row, shape (1, n): looked up each time, since fully_shard may move it."""
        return as_row(self._home.tensor).unsqueeze(0)

    def parameters(self, row: int) -> list[Tensor]:
        """List the parameters of a row.

        Args:
            row: 0.

        Returns:
            The parameter object itself, a DTensor.
        """
        return list(self._rows[row])

    def tensors(self, row: int) -> list[Tensor]:
        """List the tensors of a row.

        Args:
            row: 0.

        Returns:
            The parameter.
        """
        return list(self._rows[row])

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self._home.name

    def is_intact(self) -> bool:
        """Say whether the module still holds the same parameter, and this process the same part of it."""
        entry = self.layout.parameters[0]
        part = local_part(self._home.tensor)
        is_same = all(owner.get(attribute) is self._home.tensor for owner, attribute in self._home.places)
        return is_same and part.shape == entry.shape and part.dtype == self.layout.dtype


@torch.no_grad()
def local_part(tensor: Tensor) -> Tensor:
    """Give what this process holds of a tensor.

    Args:
        tensor: Any tensor.

    Returns:
        Its part of a DTensor, else the tensor itself; detached, on the same memory.
    """
    whole: Any = tensor
    return whole.to_local().detach() if is_sharded(tensor) else tensor.detach()


def as_row(tensor: Tensor) -> Tensor:
    """See what this process holds of a tensor as a vector.

    Args:
        tensor: Contiguous in its part.

    Returns:
        Shape (n,), on the same memory.
    """
    part = local_part(tensor)
    return part.view(part.numel())


def make_shards(homes: Sequence[Home], *, num_rows: int) -> tuple[Shard, ...]:
    """Find the parameters that stay where they are.

    Args:
        homes: The trainable parameters of a model.
        num_rows: Rows of this process.

    Returns:
        One shard for each of them if they are DTensors; nothing if none is.

    Raises:
        ArgumentError: If only some of them are, there are several rows, or they lie on different meshes.
    """
    sharded = [home for home in homes if is_sharded(home.tensor)]
    if not sharded:
        return ()
    require(
        num_rows == 1,
        f"model has sharded parameters (fully_shard) and {num_rows} rows; a process holds a part of one worker only: pass a "
        "single model.",
    )
    whole = [home.name for home in homes if not is_sharded(home.tensor)]
    require(
        not whole,
        f"parameters {whole} are whole and others sharded: nobody would average their gradients inside the worker. Call "
        "fully_shard(model, ...) on the outermost module as well, or freeze them.",
    )
    shards = tuple(Shard(home) for home in sharded)
    for home, shard in zip(sharded, shards, strict=True):
        require(
            shard.mesh == shards[0].mesh,
            f"parameter {home.name!r} lies on {shard.mesh}, {sharded[0].name!r} on {shards[0].mesh}; shard all of them over "
            "one mesh.",
        )
    return shards


def reshard(models: Sequence[nn.Module]) -> None:
    """Let fully_shard drop what it has gathered: parameters written to since would be ignored by the next forward pass.

    A forward pass without backward, for one, leaves the outermost module's parameters whole.

    Args:
        models: Any modules.

    Raises:
        ArgumentError: If one is sharded in the way of FSDP1, which moves the memory of its parameters about.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None:
        for module in (module for model in models for module in model.modules()):
            require(
                not isinstance(module, fsdp.FullyShardedDataParallel),
                "model holds a FullyShardedDataParallel module (FSDP1), whose parameters cannot be averaged; shard it with "
                'fully_shard(model, mesh=mesh["shard"]) (FSDP2).',
            )
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()


def _require_cut_once(name: str, mesh: "DeviceMesh", placements: Sequence[Any]) -> None:
    names = mesh.mesh_dim_names or tuple(f"dimension {dim}" for dim in range(mesh.ndim))
    copied = [own for own, placement in zip(names, placements, strict=True) if placement.is_replicate()]
    require(
        not copied,
        f"parameter {name!r} is placed {placements} on {mesh}: its copies along {copied} take part in every step's gradient "
        "(hybrid sharding), so there is nothing left to average rarely. Shard inside the worker only, "
        'fully_shard(model, mesh=mesh["shard"]), and pass communicator=Processes(mesh.get_group("replicate")).',
    )
    require(
        mesh.ndim == 1 and placements[0].is_shard(),
        f"parameter {name!r} is placed {placements} on {mesh}; only parameters that are sharded over a mesh of one "
        "dimension (fully_shard without tensor parallelism) are averaged.",
    )
