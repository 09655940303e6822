"""Which tensors of a module go where in a row: a pure description, equal for models that can be averaged."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from localsgd._checks import require
from localsgd.buffers.homes import Home, find_buffers, find_parameters, is_sharded

__all__ = ["NUM_SLOTS", "Entry", "Layout", "describe"]

NUM_SLOTS = 16
ALIGNMENT_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor's place in a row."""

    name: str
    """First qualified name in the module."""
    shape: tuple[int, ...]
    """Shape of the tensor."""
    stride: tuple[int, ...]
    """Strides in elements; those of the tensor where it is dense, so that ``channels_last`` survives."""
    offset: int
    """First element, counted from the beginning of the row."""

    @property
    def num_elements(self) -> int:
        """Number of elements of the tensor."""
        return torch.Size(self.shape).numel()

    def view(self, row: Tensor) -> Tensor:
        """See a row through this entry.

        Args:
            row: One row, shape (L,), contiguous.

        Returns:
            A view of ``row`` with the entry's shape and strides.
        """
        return row.as_strided(self.shape, self.stride, row.storage_offset() + self.offset)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A row of one dtype on one device: parameters, then slots, then buffers; the gaps that align entries stay zero."""

    dtype: torch.dtype
    """Type of every element."""
    device: torch.device
    """Where the row lives."""
    parameters: tuple[Entry, ...]
    """Trainable parameters, in the order of the module."""
    buffers: tuple[Entry, ...]
    """Floating, persistent module buffers, in the order of the module."""
    num_parameters: int
    """Length of the first region (P), gaps included: the slots begin here."""
    num_buffers: int
    """Length of the last region, gaps included."""
    num_slots: int = NUM_SLOTS
    """Length of the region in between, in which facts travel."""
    note: str = ""
    """What else must be alike on every worker."""

    @property
    def slots(self) -> slice:
        """Elements in which facts about workers travel along."""
        return slice(self.num_parameters, self.num_parameters + self.num_slots)

    @property
    def buffer_region(self) -> slice:
        """Elements that hold module buffers."""
        return slice(self.num_parameters + self.num_slots, self.row_length)

    @property
    def row_length(self) -> int:
        """Elements in a row (L)."""
        return self.num_parameters + self.num_slots + self.num_buffers

    @property
    def accumulation_dtype(self) -> torch.dtype:
        """Type in which means are formed: float32 for half-precision rows, otherwise the row's own."""
        return torch.float32 if self.dtype.itemsize < torch.float32.itemsize else self.dtype

    def facts(self) -> list[str]:
        """Word the layout, one line a tensor, for comparison between workers."""
        kinds = [("parameter", self.parameters), ("buffer", self.buffers)]
        return [f"{kind} {e.name} {list(e.shape)} {self.dtype}{self.note}" for kind, entries in kinds for e in entries]


def describe(model: nn.Module) -> tuple[Layout, ...]:
    """Lay out the trainable parameters and floating buffers of a module.

    Args:
        model: The module; tied weights count once, frozen and sharded parameters (DTensor) not at all.

    Returns:
        One layout for each pair of device and dtype, in the order in which they first appear; at least one, for the slots.

    Raises:
        ArgumentError: If nothing is trainable, or a parameter is of a kind that cannot be averaged.
    """
    parameters, buffers = find_parameters(model), find_buffers(model)
    require(
        parameters,
        "model has no trainable parameter to average; set requires_grad before constructing LocalSGD.",
    )
    whole = [home for home in parameters if not is_sharded(home.tensor)]
    keys = dict.fromkeys((home.tensor.device, home.tensor.dtype) for home in [*whole, *buffers])
    if not keys:
        first = parameters[0].tensor
        keys[first.device, torch.promote_types(first.dtype, torch.float32)] = None
    return tuple(_lay_out(_of_kind(whole, key), _of_kind(buffers, key), key) for key in keys)


def _of_kind(homes: Sequence[Home], key: tuple[torch.device, torch.dtype]) -> list[Home]:
    return [home for home in homes if (home.tensor.device, home.tensor.dtype) == key]


def _lay_out(parameters: Sequence[Home], buffers: Sequence[Home], key: tuple[torch.device, torch.dtype]) -> Layout:
    device, dtype = key
    parameter_entries, num_parameters = _place(parameters, 0, dtype)
    buffer_entries, end = _place(buffers, num_parameters + NUM_SLOTS, dtype)
    return Layout(
        dtype=dtype,
        device=device,
        parameters=parameter_entries,
        buffers=buffer_entries,
        num_parameters=num_parameters,
        num_buffers=end - num_parameters - NUM_SLOTS,
    )


def _place(homes: Sequence[Home], offset: int, dtype: torch.dtype) -> tuple[tuple[Entry, ...], int]:
    unit = ALIGNMENT_BYTES // dtype.itemsize
    offset = -(-offset // unit) * unit
    entries = []
    for home in homes:
        tensor = home.tensor
        entries.append(Entry(name=home.name, shape=tuple(tensor.shape), stride=_dense_stride(tensor), offset=offset))
        offset += -(-tensor.numel() // unit) * unit
    return tuple(entries), offset


def _dense_stride(tensor: Tensor) -> tuple[int, ...]:
    """Keep strides that cover memory exactly once; anything else becomes contiguous."""
    expected = 1
    for dim in sorted(range(tensor.dim()), key=lambda d: (tensor.stride(d), tensor.shape[d])):
        if tensor.shape[dim] != 1 and tensor.stride(dim) != expected:
            return torch.empty(tensor.shape, device="meta").stride()
        expected *= tensor.shape[dim]
    return tensor.stride()
