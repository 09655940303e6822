"""Where gradients lie while they are averaged, and how that vector is cut into buckets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from localsgd._checks import require
from localsgd.buffers.flat import RowGroup
from localsgd.buffers.layout import Entry, Layout

__all__ = ["BUCKET_BYTES", "FIRST_BUCKET_BYTES", "Bucket", "GradientVector", "cut_buckets", "in_backward_order"]

FIRST_BUCKET_BYTES = 1 << 20
"""The first bucket is small, so that the wire is busy soon after backward has begun."""
BUCKET_BYTES = 8 << 20
"""Large enough that a collective's own cost is lost in it; the last bucket, which nothing hides, should not be larger."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A contiguous part of one group's vector that is exchanged at a time."""

    group: int
    """Number of the group."""
    region: slice
    """Its elements in the vector."""
    members: slice
    """The parameters whose gradients lie in it, by their numbers in the group's layout."""


@final
class GradientVector:
    """The gradients of one group of parameters, then slots and module buffers like a row, then counts.

    Backward reaches the last layers first, so the gradients lie in the opposite order of the parameters in a row: what is
    ready first comes first. Behind the row's other regions stands one element a parameter, which counts the workers that
    had a gradient for it.

    Attributes:
        values: The whole vector.
        gradients: Its first region: the gradients, and gaps of zeros.
        tail: All the rest.
        counts: The end of the tail.
        entries: Where the gradient of each parameter lies, in the order of the row's layout.
        views: The vector seen through the entries.
    """

    def __init__(self, group: RowGroup) -> None:
        """Take the memory.

        Args:
            group: The group of rows.
        """
        layout = group.layout
        length = layout.row_length + len(layout.parameters)
        self.values = torch.zeros(length, dtype=layout.accumulation_dtype, device=layout.device)
        self.gradients, self.tail = self.values[: layout.num_parameters], self.values[layout.num_parameters :]
        self.counts = self.values[layout.row_length :]
        self.entries = in_backward_order(layout)
        self.views = [entry.view(self.values) for entry in self.entries]

    @torch.no_grad()
    def read_(self, parameters: Sequence[Tensor], members: slice) -> list[Tensor | None]:
        """Copy gradients of parameters into their places; zeros where there is none.

        Args:
            parameters: The parameters of one row, in the order of its layout.
            members: Which of them.

        Returns:
            The gradients that were found, one a member.

        Raises:
            ArgumentError: If one is sparse.
        """
        found = [parameter.grad for parameter in parameters[members]]
        views = self.views[members]
        gradients = [gradient for gradient in found if gradient is not None]
        if len(gradients) < len(found):
            for gradient, view in zip(found, views, strict=True):
                if gradient is None:
                    view.zero_()
            views = [view for gradient, view in zip(found, views, strict=True) if gradient is not None]
        for gradient, entry in zip(found, self.entries[members], strict=True):
            require(
                gradient is None or not gradient.is_sparse,
                f"parameter {entry.name!r} has a sparse gradient, which a round of one step cannot average; construct the "
                "embedding with sparse=False, or use a schedule without one-step rounds.",
            )
        if gradients:
            torch._foreach_copy_(views, gradients)  # one call for all of them; it has no public name
        return found


def in_backward_order(layout: Layout) -> tuple[Entry, ...]:
    """Lay parameters out from the last to the first, in as much room as the row gives them.

    Args:
        layout: The layout of a row.

    Returns:
        One entry a parameter, in the order of ``layout.parameters``, with its new offset.
    """
    ends = [*(entry.offset for entry in layout.parameters[1:]), layout.num_parameters]
    return tuple(
        replace(entry, offset=layout.num_parameters - end)
        for entry, end in zip(layout.parameters, ends[: len(layout.parameters)], strict=True)
    )


def cut_buckets(layout: Layout, *, group: int, first_bytes: int, bucket_bytes: int) -> list[Bucket]:
    """Cut a group's vector into buckets of whole gradients, in the order in which backward fills them.

    Args:
        layout: Layout of the group's rows.
        group: Number of the group.
        first_bytes: Size which the first bucket does not exceed, unless it holds a single gradient.
        bucket_bytes: Likewise for the others. The slots, buffers and counts in the last one come on top.

    Returns:
        The buckets, at least one; together they hold every element of the vector once. The last one ends with the tail.
    """
    itemsize = layout.accumulation_dtype.itemsize
    buckets: list[Bucket] = []
    begin, stop, limit = 0, len(layout.parameters), first_bytes
    for index in range(len(layout.parameters) - 1, -1, -1):
        end = layout.num_parameters - layout.parameters[index].offset
        is_full = (end - begin) * itemsize > limit
        if is_full and index + 1 < stop:
            edge = layout.num_parameters - layout.parameters[index + 1].offset
            buckets.append(Bucket(group=group, region=slice(begin, edge), members=slice(index + 1, stop)))
            begin, stop, limit = edge, index + 1, bucket_bytes
    length = layout.row_length + len(layout.parameters)
    return [*buckets, Bucket(group=group, region=slice(begin, length), members=slice(0, stop))]
