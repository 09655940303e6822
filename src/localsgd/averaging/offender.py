"""A worker whose values cannot enter the mean."""

from dataclasses import dataclass
from typing import final

__all__ = ["Offender"]


@final
@dataclass(frozen=True, kw_only=True)
class Offender:
    """A worker whose values cannot enter the mean."""

    worker: int
    """Number of the worker."""
    name: str
    """Its first tensor that has an infinity or a NaN, or that no longer looks into its row."""
    is_broken: bool = False
    """Whether it is the latter."""
