"""How a cost grows with a size: its slope on log axes, and a fixed part beside a part for each byte."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LinearCost", "fit_linear", "fit_slope"]


@dataclass(frozen=True, kw_only=True)
class LinearCost:
    """``fixed_seconds + num_bytes / bytes_per_second``."""

    fixed_seconds: float
    """What it costs to begin at all."""
    bytes_per_second: float
    """What it costs to go on."""
    worst_error: float
    """The largest relative distance of a point from the line."""


def fit_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Fit a power of the size by least squares on log axes.

    Args:
        sizes: At least two different sizes, > 0.
        seconds: The cost at each, > 0.

    Returns:
        The exponent: 1 where twice the size costs twice as much.
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def fit_linear(num_bytes: Sequence[float], seconds: Sequence[float]) -> LinearCost:
    """Fit a fixed cost and a rate, by least squares of relative errors: small sizes count as much as large ones.

    Args:
        num_bytes: At least two different sizes, > 0.
        seconds: The cost at each, > 0.

    Returns:
        The fit.
    """
    sizes, cost = np.asarray(num_bytes, dtype=float), np.asarray(seconds, dtype=float)
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / cost[:, None]
    (fixed, each), *_ = np.linalg.lstsq(design, np.ones_like(cost), rcond=None)
    expected = fixed + each * sizes
    return LinearCost(
        fixed_seconds=float(fixed),
        bytes_per_second=float(1 / each),
        worst_error=float(np.abs(expected / cost - 1).max()),
    )
