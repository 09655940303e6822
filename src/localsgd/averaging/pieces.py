"""Which regions of a row enter the mean, and with what weight."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from localsgd.buffers.arithmetic import Scan, add_rows_, is_finite, scale_and_check_
from localsgd.buffers.flat import RowGroup
from localsgd.buffers.layout import Layout

__all__ = ["BufferPolicy", "Piece", "add_pieces_", "bad_entries", "cut_row", "weigh_regions"]

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
    scan: Scan | None
    """What scales it by its weight and looks whether it is finite, where it is in place."""

    def scale(self, factor: float) -> float:
        """Weigh the piece.

        Args:
            factor: What its row counts.

        Returns:
            What it is multiplied by in the mean.
        """
        return self.weight * factor if self.is_shared else self.weight

    def weigh_and_check_(self, factor: float) -> bool:
        """Look whether the piece is finite, and scale it where it is in place.

        Args:
            factor: What its row counts.

        Returns:
            Whether no element is infinite or NaN.
        """
        if self.scan is None:
            return is_finite(self.source)
        return self.scan.run_() if factor == 1 else scale_and_check_(self.source, self.scale(factor))


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
    pieces = []
    for index, group in enumerate(groups):
        is_own = is_in_place and group.layout.accumulation_dtype == group.layout.dtype
        for region, weight in weigh_regions(group.layout, policy, share=share, is_first=is_first):
            source = group.storage[row][region]
            pieces.append(
                Piece(
                    source=source,
                    group=index,
                    region=region,
                    weight=weight,
                    is_in_place=is_own,
                    is_shared=region.start == 0 or policy == "average",
                    scan=Scan(source, weight) if is_own else None,
                )
            )
    return pieces


def add_pieces_(vectors: Sequence[Tensor], rows: Sequence[tuple[Sequence[Piece], float]]) -> None:
    """Add rows to the vectors in which the mean is formed, but for pieces that are there already.

    Args:
        vectors: One a group. Overwritten.
        rows: For each row its pieces, as many for each, and what it counts.
    """
    for same in zip(*(pieces for pieces, _ in rows), strict=True):
        added = [(piece, factor) for piece, (_, factor) in zip(same, rows, strict=True) if not piece.is_in_place]
        if added:
            target = vectors[same[0].group][same[0].region]
            add_rows_(target, [piece.source for piece, _ in added], [piece.scale(factor) for piece, factor in added])


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
