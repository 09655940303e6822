"""Which part of a row each fragment holds, and after which step of a round it syncs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from localsgd._checks import require
from localsgd.buffers.layout import Layout

__all__ = ["Fragment", "cut_rows", "due_step"]


@final
@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Whole tensors, one after the other, that sync together."""

    index: int
    """Number of the fragment, from 0: the order in which fragments sync within a round."""
    regions: tuple[slice, ...]
    """The parameters it holds in each group of the rows; an empty slice where it holds none."""
    is_last: bool
    """Whether it syncs at the end of a round, and takes the module buffers along."""


def cut_rows(layouts: Sequence[Layout], num_fragments: int) -> tuple[Fragment, ...]:
    """Cut rows into fragments of about the same size, in the order of the layout.

    Args:
        layouts: The layout of each group.
        num_fragments: How many fragments to make (F), >= 1.

    Returns:
        The fragments. Together they hold every element of the parameters once; the gaps between tensors belong to the
        tensor before.

    Raises:
        ArgumentError: If there are more fragments than tensors.
    """
    held = [[entry for entry in layout.parameters if entry.num_elements] for layout in layouts]
    sizes = [
        entry.num_elements * layout.dtype.itemsize
        for layout, entries in zip(layouts, held, strict=True)
        for entry in entries
    ]
    require(
        num_fragments <= len(sizes),
        f"fragments={num_fragments} must be <= {len(sizes)}, the number of tensors that are averaged: a fragment holds "
        "whole tensors; use fewer.",
    )
    ends = _balance(sizes, num_fragments)
    fragments = []
    for index, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        regions = []
        first = 0
        for layout, entries in zip(layouts, held, strict=True):
            offsets = [*(entry.offset for entry in entries), layout.num_parameters]
            regions.append(_region(offsets, begin - first, end - first))
            first += len(entries)
        fragments.append(Fragment(index=index, regions=tuple(regions), is_last=index == num_fragments - 1))
    return tuple(fragments)


def due_step(begin: int, end: int, fragment: int, *, num_fragments: int) -> int:
    """Say after which step of a round a fragment syncs.

    Args:
        begin: Step after which the round began.
        end: Step that ends it, > ``begin``.
        fragment: Number of the fragment, from 0.
        num_fragments: How many there are (F).

    Returns:
        ``begin + ceil((end - begin) * (fragment + 1) / F)``: evenly spread, the last one at the end.

    Source:
        Douillard et al. 2025 (Streaming DiLoCo), arXiv:2501.18512, in which one of P fragments syncs every H / P steps.

    Example:
        >>> [due_step(100, 110, fragment, num_fragments=4) for fragment in range(4)]
        [103, 105, 108, 110]
    """
    return begin + -(-(end - begin) * (fragment + 1) // num_fragments)


def _balance(sizes: Sequence[int], num_parts: int) -> list[int]:
    """Find the ends of consecutive parts, none of them empty, the largest of which is as small as can be."""
    too_small, enough = max(sizes, default=1) - 1, sum(sizes)
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        fits = len(_fill(sizes, num_parts, capacity=middle)) <= num_parts
        too_small, enough = (too_small, middle) if fits else (middle, enough)
    return _fill(sizes, num_parts, capacity=enough)


def _fill(sizes: Sequence[int], num_parts: int, *, capacity: int) -> list[int]:
    """Fill part after part up to a capacity, leaving enough tensors for the parts to come; gives where each part ends."""
    ends: list[int] = []
    filled = 0
    for index, size in enumerate(sizes):
        num_needed = num_parts - len(ends) - 1
        if index and (filled + size > capacity or len(sizes) - index == num_needed):
            ends.append(index)
            filled = 0
        filled += size
    return [*ends, len(sizes)]


def _region(offsets: Sequence[int], begin: int, end: int) -> slice:
    """Turn a range of tensors, as far as they are among those that begin at the offsets, into elements."""
    last = len(offsets) - 1
    region = slice(offsets[min(max(begin, 0), last)], offsets[min(max(end, 0), last)])
    return region if region.start < region.stop else slice(0, 0)
