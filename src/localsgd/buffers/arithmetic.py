"""Arithmetic on long vectors that passes over memory once and never doubles it."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

__all__ = [
    "Scan",
    "add_rows_",
    "add_scaled_",
    "are_finite",
    "fill_rows_",
    "is_finite",
    "scale_and_check_",
    "scale_and_flag_",
    "squared_distance",
    "squared_norm",
]

CHUNK_ELEMENTS = 1 << 18
"""Elements handled at a time on a CPU: a megabyte of float32 stays in the second-level cache between two passes."""


@final
class Scan:
    """Does what `scale_and_check_` does to one vector, sync after sync: what the kernel takes is made once."""

    def __init__(self, vector: Tensor, scale: float) -> None:
        """Prepare.

        Args:
            vector: Shape (n,), floating.
            scale: The factor; 1 leaves every bit as it is.
        """
        is_fused = _is_fused(vector)
        self._vectors = [vector]
        self._factor = _scalars(scale if is_fused else 1.0, vector.device)
        self._scale_after = 1.0 if is_fused else scale
        self._found = torch.zeros((), dtype=torch.float32, device=vector.device)

    def run_(self) -> bool:
        """Multiply the vector in place and say whether all of it is finite.

        Returns:
            Whether no element is infinite or NaN.
        """
        torch._amp_foreach_non_finite_check_and_unscale_(self._vectors, self._found, self._factor)  # as below
        if self._scale_after != 1:
            self._vectors[0].mul_(self._scale_after)
        if not self._found.item():
            return True
        self._found.zero_()  # only now: before each scan it would be one operation more
        return False


def scale_and_check_(vector: Tensor, scale: float) -> bool:
    """Multiply a vector in place and say whether all of it is finite, in one pass over memory.

    Args:
        vector: Shape (n,), floating. Overwritten.
        scale: The factor; 1 leaves every bit as it is.

    Returns:
        Whether no element is infinite or NaN.

    Cost:
        One pass over memory in one kernel, that of `torch.amp.GradScaler`. Waits for the device once.
    """
    found = _flag(vector.device)
    found.zero_()
    scale_and_flag_(vector, scale, found=found)
    return not bool(found)


def scale_and_flag_(vector: Tensor, scale: float | Tensor, *, found: Tensor) -> None:
    """Multiply a vector in place, and raise a flag if not all of it is finite; the flag is not looked at.

    Args:
        vector: Shape (n,), floating. Overwritten.
        scale: The factor, a number, or a tensor of shape () on the vector's device; 1 leaves every bit as it is.
        found: The flag, float32, shape (), on the vector's device: becomes 1 if an element is infinite or NaN, else stays
            what it was.

    Cost:
        As for `scale_and_check_`, but does not wait for the device.
    """
    is_fused = _is_fused(vector)
    if isinstance(scale, Tensor):
        factor = scale.float() if is_fused else _scalars(1.0, vector.device)
    else:
        factor = _scalars(scale if is_fused else 1.0, vector.device)
    torch._amp_foreach_non_finite_check_and_unscale_([vector], found, factor)  # it has no public name
    if not is_fused and (isinstance(scale, Tensor) or scale != 1):
        vector.mul_(scale)


def is_finite(vector: Tensor) -> bool:
    """Say whether all elements are finite.

    Args:
        vector: Shape (n,), floating.

    Returns:
        Whether no element is infinite or NaN.

    Cost:
        One pass over memory, which is only read, since infinities and NaNs never leave a sum; a second one if there are any,
        or the sum overflows. Waits for the device once.
    """
    return math.isfinite(vector.sum(dtype=_wide(vector)).item()) or scale_and_check_(vector, 1)


def are_finite(vectors: Sequence[Tensor]) -> bool:
    """Say whether all elements of several vectors are finite.

    Args:
        vectors: Each of shape (n,), floating, all on one device; may be empty.

    Returns:
        Whether no element is infinite or NaN.

    Cost:
        One pass over memory. Waits for the device once.
    """
    if not vectors:
        return True
    found = torch.zeros((), dtype=torch.float32, device=vectors[0].device)
    for vector in vectors:
        scale_and_flag_(vector, 1, found=found)
    return not bool(found)


def add_scaled_(target: Tensor, source: Tensor, scale: float) -> None:
    """Add a multiple of one vector to another, in place.

    Args:
        target: Shape (n,). Overwritten.
        source: Shape (n,), of the same or a narrower dtype.
        scale: The factor of ``source``.
    """
    for mine, other in zip(_chunks(target), _chunks(source), strict=True):
        mine.add_(other.to(mine.dtype), alpha=scale)


def add_rows_(target: Tensor, sources: Sequence[Tensor], scales: Sequence[float]) -> None:
    """Add multiples of several vectors to another, in place, in their order.

    Args:
        target: Shape (n,). Overwritten.
        sources: Each of shape (n,), of the same or a narrower dtype.
        scales: The factor of each.

    Cost:
        One pass over memory; on a CPU what is added to stays in the cache until all have been.
    """
    for region in _regions(target):
        mine = target[region]
        for source, scale in zip(sources, scales, strict=True):
            mine.add_(source[region].to(mine.dtype), alpha=scale)


def fill_rows_(rows: Tensor, vector: Tensor) -> None:
    """Copy a vector into every row.

    Args:
        rows: Shape (V, n), any dtype. Overwritten.
        vector: Shape (n,).

    Cost:
        One pass over the rows.
    """
    for region in _regions(vector):
        rows[:, region].copy_(vector[region])


def squared_norm(vector: Tensor) -> float:
    """Sum the squares of a vector.

    Args:
        vector: Shape (n,), floating.

    Returns:
        The squared Euclidean norm, accumulated in float64 over chunks.
    """
    return sum(float(torch.linalg.vector_norm(chunk, dtype=_wide(chunk))) ** 2 for chunk in _chunks(vector))


def squared_distance(first: Tensor, second: Tensor) -> float:
    """Sum the squared differences of two vectors.

    Args:
        first: Shape (n,), floating.
        second: Shape (n,), floating.

    Returns:
        The squared Euclidean distance, accumulated in float64 over chunks.

    Cost:
        Temporary memory of one chunk.
    """
    pairs = zip(_chunks(first), _chunks(second), strict=True)
    return sum(squared_norm(mine.to(_wide(mine)) - other.to(_wide(mine))) for mine, other in pairs)


@lru_cache(maxsize=64)
def _scalars(value: float, device: torch.device) -> Tensor:
    """Keep the few scalars that every sync needs; to make one takes as long as to scale a small model."""
    with torch.inference_mode(mode=False):  # whoever asks first may be evaluating
        return torch.full((), value, dtype=torch.float32, device=device)


@lru_cache(maxsize=64)
def _flag(device: torch.device) -> Tensor:
    """Keep the flag that a scan raises; none of the scalars, which are read long after and must stay what they are."""
    with torch.inference_mode(mode=False):
        return torch.zeros((), dtype=torch.float32, device=device)


def _is_fused(vector: Tensor) -> bool:
    """The kernel takes its factor in float32, which is too coarse for a float64 vector."""
    return vector.dtype != torch.float64


def _wide(vector: Tensor) -> torch.dtype:
    return torch.promote_types(vector.dtype, torch.float32)


def _regions(vector: Tensor) -> list[slice]:
    """Cut as `_chunks` does, but leave no short piece at the end, which would take as many operations as a long one."""
    size = CHUNK_ELEMENTS if vector.device.type == "cpu" else 1 << 28
    ends = [*range(size, vector.numel() - size // 2, size), vector.numel()]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def _chunks(vector: Tensor) -> Iterator[Tensor]:
    """Cut into cache-sized pieces on a CPU; an accelerator takes the whole vector in one kernel (up to 2^28 elements)."""
    size = CHUNK_ELEMENTS if vector.device.type == "cpu" else 1 << 28
    yield from torch.split(vector, size)
