"""Buckets of bounded size, in which tensors that cannot become views of one vector are exchanged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from localsgd._checks import require_at_least

__all__ = ["BUCKET_BYTES", "HOST_BUCKET_BYTES", "Window", "cut_windows", "exchange_in_buckets_"]

BUCKET_BYTES = 32 << 20
"""Large enough that a collective's own cost is lost in it, small beside any model that needs to be sharded."""
HOST_BUCKET_BYTES = 4 << 20
"""On a CPU: what is larger leaves the caches, and the C library fetches it anew from the system for each sync."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of one tensor, and where it lies in its bucket."""

    piece: int
    """Number of the tensor."""
    region: slice
    """Its elements."""
    place: slice
    """The elements of the bucket."""


def cut_windows(lengths: Sequence[int], *, capacity: int) -> list[list[Window]]:
    """Fill buckets with tensors, in their order; all buckets but the last are full.

    Args:
        lengths: Number of elements of each tensor; a tensor may be empty, or longer than a bucket.
        capacity: Elements in a bucket, >= 1.

    Returns:
        The windows of each bucket. Together they hold every element of every tensor exactly once.

    Raises:
        ArgumentError: If ``capacity`` is below 1.

    Example:
        >>> [[(w.piece, w.region.start, w.region.stop) for w in bucket] for bucket in cut_windows([3, 0, 4], capacity=5)]
        [[(0, 0, 3), (2, 0, 2)], [(2, 2, 4)]]
    """
    require_at_least("capacity", capacity, 1)
    buckets: list[list[Window]] = []
    filled = capacity
    for piece, length in enumerate(lengths):
        begin = 0
        while begin < length:
            if filled == capacity:
                buckets.append([])
                filled = 0
            size = min(length - begin, capacity - filled)
            region, place = slice(begin, begin + size), slice(filled, filled + size)
            buckets[-1].append(Window(piece=piece, region=region, place=place))
            begin += size
            filled += size
    return buckets


def exchange_in_buckets_(
    pieces: Sequence[Tensor],
    exchange_: Callable[[Tensor], None],
    *,
    scales: Sequence[float],
    bucket_bytes: int,
) -> None:
    """Exchange tensors through buckets: copied in, exchanged, copied out.

    Half-precision tensors travel, and are scaled, in float32. Tensors of one dtype share buckets.

    Args:
        pieces: Each of shape (n,), floating, any dtype and device. Overwritten.
        exchange_: Replaces a bucket, shape (m,), contiguous, by the result. Every process must have tensors of the same
            lengths and dtypes.
        scales: What the result of each piece is multiplied by.
        bucket_bytes: Size of a bucket.

    Cost:
        Memory of one bucket, or less where the tensors are smaller; one exchange a bucket.
    """
    kinds = [(piece.device, _wide(piece.dtype)) for piece in pieces]
    for device, dtype in dict.fromkeys(kinds):
        own = [index for index, kind in enumerate(kinds) if kind == (device, dtype)]
        lengths = [pieces[index].numel() for index in own]
        capacity = max(bucket_bytes // dtype.itemsize, 1)
        memory = torch.empty(min(capacity, sum(lengths)), dtype=dtype, device=device)
        for windows in cut_windows(lengths, capacity=capacity):
            for window in windows:
                memory[window.place].copy_(pieces[own[window.piece]][window.region])
            exchange_(memory[: windows[-1].place.stop])
            for window in windows:
                scale = scales[own[window.piece]]
                result = memory[window.place] if scale == 1 else memory[window.place].mul_(scale)
                pieces[own[window.piece]][window.region].copy_(result)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < torch.float32.itemsize else dtype
