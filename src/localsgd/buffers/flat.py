"""Rows of workers: every parameter of a worker is a view into one row of a tensor ``(V, L)``."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from localsgd._checks import require
from localsgd.buffers.homes import Home, find_buffers, find_parameters
from localsgd.buffers.layout import Entry, Layout, describe
from localsgd.buffers.row_group import RowGroup
from localsgd.buffers.shards import Shard, make_shards, reshard
from localsgd.errors import BrokenViewError, DisagreementError

__all__ = ["FlatGroup", "FlatRows", "RowGroup", "describe_broken"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Watch:
    """What is compared to see whether tensors are where they were, as lists: one by one would slow every sync."""

    owners: list[dict[str, Any]]
    """Every dictionary in which a parameter hangs, once for each that does."""
    names: list[str]
    """The names under which they hang there."""
    expected: list[Tensor]
    """What was found there at construction."""
    tensors: list[Tensor]
    """The tensors, each once."""
    addresses: list[int]
    """Where their views begin."""

    @staticmethod
    def over(adopted: "Sequence[tuple[Home, Entry, int]]") -> "_Watch":
        places = [(home, place) for home, _, _ in adopted for place in home.places]
        return _Watch(
            owners=[owner for _, (owner, _) in places],
            names=[name for _, (_, name) in places],
            expected=[home.tensor for home, _ in places],
            tensors=[home.tensor for home, _, _ in adopted],
            addresses=[address for _, _, address in adopted],
        )

    def is_intact(self) -> bool:
        is_same = all(map(operator.is_, map(dict.get, self.owners, self.names), self.expected))
        return is_same and list(map(Tensor.data_ptr, self.tensors)) == self.addresses


@final
class FlatGroup:
    """The rows of one dtype on one device, and the tensors that look into them.

    Attributes:
        layout: Where each tensor lies in a row.
        storage: All rows, shape (V, L); rows are contiguous and aligned to 64 bytes.
    """

    def __init__(self, layout: Layout, models: Sequence[nn.Module]) -> None:
        """Move the tensors of every model into its row.

        Args:
            layout: The common layout of the models.
            models: One module a row; their parameters keep identity, shape, strides and values.
        """
        self.layout = layout
        unit = 64 // layout.dtype.itemsize
        length = -(-layout.row_length // unit) * unit
        whole = torch.zeros((len(models), length), dtype=layout.dtype, device=layout.device)
        self.storage = whole[:, : layout.row_length]
        self._parameters: list[list[tuple[Home, Entry, int]]] = []
        self._buffers: list[list[tuple[Home, Entry, int]]] = []
        for row, model in enumerate(models):
            homes = {home.name: home for home in [*find_parameters(model), *find_buffers(model)]}
            self._parameters.append([self._adopt(homes[e.name], e, row) for e in layout.parameters])
            self._buffers.append([self._adopt(homes[e.name], e, row) for e in layout.buffers])
        self._watches = [_Watch.over(adopted) for adopted in self._parameters]
        self._buffer_watches = [_Watch.over(adopted) for adopted in self._buffers]

    def parameters(self, row: int) -> list[Tensor]:
        """List the parameters of a row.

        Args:
            row: Number of the row.

        Returns:
            The parameter objects themselves, in the layout's order.
        """
        return [home.tensor for home, _, _ in self._parameters[row]]

    def tensors(self, row: int) -> list[Tensor]:
        """List the tensors of a row as its module holds them now.

        Args:
            row: Number of the row.

        Returns:
            Parameters, then buffers.
        """
        return [*self.parameters(row), *(home.present for home, _, _ in self._buffers[row])]

    def adopted(self, row: int) -> list[tuple[Home, Entry, int]]:
        """List where the tensors of a row hang, their entries, and where their views begin.

        Args:
            row: Number of the row.

        Returns:
            Parameters, then buffers, as they were at construction.
        """
        return [*self._parameters[row], *self._buffers[row]]

    def find_broken(self, row: int) -> str | None:
        """Look for a parameter of a row that was replaced or moved: the optimizer, or the model, holds another one now.

        Args:
            row: Number of the row.

        Returns:
            The name of the first one; ``None`` if all are where they were.
        """
        if self._watches[row].is_intact():
            return None
        moved = (
            home.name
            for home, _, address in self._parameters[row]
            if any(owner.get(attribute) is not home.tensor for owner, attribute in home.places)
            or home.tensor.data_ptr() != address
        )
        return next(moved, "a parameter")

    def adopt_buffers(self, row: int) -> str | None:
        """Take back buffers that their module bound anew (``self.mean = 0.9 * self.mean + ...``), values included.

        Args:
            row: Number of the row.

        Returns:
            The name of a buffer that is gone, or changed its shape or dtype; ``None`` if all could be taken back.
        """
        if self._buffer_watches[row].is_intact():
            return None
        for home, entry, address in self._buffers[row]:
            tensor = home.present
            if isinstance(tensor, Tensor) and tensor.data_ptr() == address:
                continue
            fits = isinstance(tensor, Tensor) and tensor.shape == entry.shape and tensor.dtype == self.layout.dtype
            if not fits:
                return entry.name
            self._bind(tensor, entry, row)
        return None

    def _adopt(self, home: Home, entry: Entry, row: int) -> tuple[Home, Entry, int]:
        return home, entry, self._bind(home.tensor, entry, row)

    def _bind(self, tensor: Tensor, entry: Entry, row: int) -> int:
        """Make a tensor look into its row through a storage of just its own size.

        The exchange through DLPack gives each tensor a storage object that spans its own elements only. A view that
        shared the storage of all rows would drag every worker into each checkpoint and pickle of one of them.
        """
        segment = self.storage[row, entry.offset : entry.offset + entry.num_elements]
        view = from_dlpack(segment).as_strided(entry.shape, entry.stride)
        view.copy_(tensor.detach())
        tensor.data = view
        return tensor.data_ptr()


class FlatRows:
    """The workers held by this process: V models whose parameters and floating buffers are views into rows.

    Parameters that fully_shard has cut stay where they are, each a group of its own.

    Attributes:
        groups: All groups: the flat ones, of which the first has the slots in which facts travel, then the shards.
        flat_groups: One group for each pair of device and dtype.
        shards: This process's parts of parameters that cannot be moved into a row; empty but for sharded models.
        num_rows: Number of workers in this process (V).

    Cost:
        No second copy stays: the rows replace the tensors' own storage. At the peak of construction one tensor is
        held twice.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        """Lay out the models and move them into rows.

        Args:
            models: One module a row, V >= 1, all different objects with the same architecture.

        Raises:
            ArgumentError: If a module appears twice, shares parameters with another, or cannot be averaged.
            DisagreementError: If the modules differ in the tensors to average.
        """
        require(
            models,
            "model=[] must hold at least one module; localsgd.replicate(model, num_workers) makes them.",
        )
        self._models = models
        reshard(models)
        self.num_rows = len(models)
        self.shards: tuple[Shard, ...] = make_shards(find_parameters(models[0]), num_rows=self.num_rows)
        layouts = [describe(model) for model in models]
        for row, layout in enumerate(layouts):
            _require_same(layouts[0], layout, row=row, num_rows=len(layouts))
        owners: dict[int, int] = {}
        for row, model in enumerate(models):
            for home in find_parameters(model):
                first = owners.setdefault(id(home.tensor), row)
                require(
                    first == row,
                    f"rows {first} and {row} share parameter {home.name!r}; give every row its own copy of the model "
                    "with localsgd.replicate(model, num_workers).",
                )
        self._frozen = [[(n, p) for n, p in model.named_parameters() if not p.requires_grad] for model in models]
        self.flat_groups = tuple(FlatGroup(layout, models) for layout in layouts[0])
        self.groups: tuple[RowGroup, ...] = (*self.flat_groups, *self.shards)
        self._watches = [
            _Watch.over([own for group in self.flat_groups for own in group.adopted(row)]) for row in range(len(models))
        ]

    def find_broken(self, row: int) -> str | None:
        """Look for a tensor of a row that no longer looks into it, and take back buffers that were bound anew.

        Args:
            row: Number of the row.

        Returns:
            The name of the first one; ``None`` if all are intact.

        Cost:
            A look-up and an address for each tensor, in lists; nothing is looked at one by one before something is known
            to be wrong, so that a sync of many small tensors is not slowed by it.
        """
        if self.shards:
            reshard(self._models)
        for name, parameter in self._frozen[row]:
            if parameter.requires_grad:
                return f"{name} (frozen at construction, trainable now)"
        if not self._watches[row].is_intact():
            for group in self.flat_groups:
                broken = group.find_broken(row) or group.adopt_buffers(row)
                if broken is not None:
                    return broken
        return next((shard.name for shard in self.shards if not shard.is_intact()), None) if self.shards else None

    def take_back(self) -> None:
        """Take back buffers that were bound anew, and drop parameters that fully_shard has gathered."""
        for group in self.flat_groups:
            for row in range(self.num_rows):
                group.adopt_buffers(row)
        if self.shards:
            reshard(self._models)

    def require_intact(self, first_worker: int) -> None:
        """Check every row.

        Args:
            first_worker: Number of the worker in row 0.

        Raises:
            BrokenViewError: If a tensor no longer looks into its row.
        """
        for row in range(self.num_rows):
            broken = self.find_broken(row)
            if broken is not None:
                raise BrokenViewError(f"worker {first_worker + row}: {describe_broken(broken)}")

    def facts(self) -> list[str]:
        """Word all layouts, one line a tensor, for comparison between workers."""
        return [line for group in self.groups for line in group.layout.facts()]


def _require_same(first: tuple[Layout, ...], other: tuple[Layout, ...], *, row: int, num_rows: int) -> None:
    if first == other:
        return
    ours = [line for layout in other for line in layout.facts()]
    theirs = [line for layout in first for line in layout.facts()]
    unlike = ((mine, reference) for mine, reference in zip(ours, theirs, strict=False) if mine != reference)
    fallback = (
        ("other strides or devices",) * 2 if len(ours) == len(theirs) else (f"{len(ours)} tensors", f"{len(theirs)}")
    )
    mine, reference = next(unlike, fallback)
    raise DisagreementError(
        f"row {row} of {num_rows}: its model has {mine}, that of row 0 has {reference}; all rows must be copies of one "
        "architecture (localsgd.replicate makes them)."
    )


def describe_broken(name: str) -> str:
    """Word what happened to a tensor that no longer looks into its row, and what to do.

    Args:
        name: The tensor's name.

    Returns:
        A sentence or two.
    """
    return (
        f"{name!r} was replaced or moved since LocalSGD was constructed, so a sync would average a stale copy. "
        "model.half(), model.to(...), load_state_dict(assign=True) and other averagers do that: call them before "
        "LocalSGD is constructed, and load with load_state_dict(assign=False)."
    )
