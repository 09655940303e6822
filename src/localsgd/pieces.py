"""Which regions of a row enter the mean, and with what weight."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from localsgd.buffers.arithmetic import is_finite
from localsgd.buffers.flat import RowGroup
from localsgd.buffers.layout import Layout

__all__ = ["BufferPolicy", "Piece", "bad_entries", "cut_row", "weigh_regions"]

BufferPolicy = Literal["average", "local", "broadcast"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A region of a row with one weight in the mean; sliced once, since slicing costs as much as scaling a small model."""

    source: Tensor
    """The region in its row."""
    group: int
    """Number of the row's group."""
    region: slice
    """Where the region lies in a vector."""
    weight: float
    """Its weight in the mean."""
    is_in_place: bool
    """Whether the row is the vector in which the mean is formed."""
    is_shared: bool
    """Whether every worker has its part in it, as much as it counts; otherwise one worker decides alone."""


def weigh_regions(layout: Layout, policy: BufferPolicy, *, share: float, is_first: bool) -> list[tuple[slice, float]]:
    """Give each region of a row with its weight in the mean, parameters first.

    The slots lie in between: whatever stands there is overwritten before anything is exchanged.

    Args:
        layout: Layout of the row.
        policy: What happens to module buffers.
        share: Weight of one worker.
        is_first: Whether the row is the block's first worker.

    Returns:
        The regions and their weights.
    """
    if policy == "average" and layout.num_buffers:
        return [(slice(0, layout.row_length), share)]
    regions = [(slice(0, layout.num_parameters), share)]
    if policy == "broadcast" and layout.num_buffers:
        regions.append((layout.buffer_region, 1.0 if is_first else 0.0))
    return regions


def cut_row(
    groups: Sequence[RowGroup], row: int, *, policy: BufferPolicy, share: float, is_first: bool, is_in_place: bool
) -> list[Piece]:
    """Cut a row into its regions.

    Args:
        groups: The groups of rows.
        row: Number of the row.
        policy: What happens to module buffers.
        share: Weight of one worker.
        is_first: Whether the row is the block's first worker.
        is_in_place: Whether the mean is formed in this row, where its dtype is wide enough.

    Returns:
        The pieces.
    """
    return [
        Piece(
            source=group.storage[row][region],
            group=index,
            region=region,
            weight=weight,
            is_in_place=is_in_place and group.layout.accumulation_dtype == group.layout.dtype,
            is_shared=region.start == 0 or policy == "average",
        )
        for index, group in enumerate(groups)
        for region, weight in weigh_regions(group.layout, policy, share=share, is_first=is_first)
    ]


def bad_entries(groups: Sequence[RowGroup], row: int, *, only_buffers: bool = False) -> Iterator[str]:
    """Find the tensors of a row that are not finite.

    Args:
        groups: The groups of rows.
        row: Number of the row.
        only_buffers: Whether to look at module buffers only.

    Yields:
        Their names.
    """
    for group in groups:
        for entry in (*(() if only_buffers else group.layout.parameters), *group.layout.buffers):
            if not is_finite(group.storage[row, entry.offset : entry.offset + entry.num_elements]):
                yield entry.name
