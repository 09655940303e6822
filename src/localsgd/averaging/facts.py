"""Facts: small numbers that every worker must know, told along with what is averaged."""

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from localsgd.buffers.layout import NUM_SLOTS

__all__ = ["Facts", "Words", "from_slots", "to_slots"]


class Facts(NamedTuple):
    """Small numbers that ride in spare slots of the first vector and are summed over the processes with it."""

    finite_workers: int
    """Workers all of whose values are finite."""
    stop_votes: int = 0
    """Processes that were asked to stop."""
    squared_drift: float = 0.0
    """Sum over the workers of the squared distance to the anchor; 0 where it is not measured."""
    broken_workers: int = 0
    """Workers with a tensor that no longer looks into its row."""
    learning_rate: float = 0.0
    """Inner learning rate of the first process; the others send 0, so that everybody learns the same value."""
    loss_sum: float = 0.0
    """Sum of the training losses that were reported since the last sync of the level."""
    num_losses: int = 0
    """How many losses that are."""
    tag: int = 0
    """A small number for what the caller believes this exchange to be; equal on all processes that agree."""
    tag_squared: int = 0
    """Its square: processes agree if the mean of the squares is the square of the mean."""
    weight: float = 0.0
    """Sum of the weights of the workers that entered the mean; as many as there are workers where all count alike."""
    spoiled: int = 0
    """Processes that sent gradients ahead which must not count, so that everybody has to send them once more."""
    unnoticed: int = 0
    """Processes that cannot notice when gradients are changed after they were sent, as an audit has found."""

    @property
    def is_finite(self) -> bool:
        """Whether no number is infinite or NaN: a loss may be, and the drift of a worker that is left out."""
        return all(map(math.isfinite, self))


_RATE = Facts._fields.index("learning_rate")


def to_slots(facts: Facts, *, is_first: bool) -> list[float]:
    """Put one process's facts into numbers that may be summed in float32.

    Args:
        facts: The facts.
        is_first: Whether this is the process whose learning rate counts.

    Returns:
        One number a slot of a row.
    """
    rate = facts.learning_rate if is_first else 0.0
    (coarse,) = array("f", (rate,))
    values = [*map(float, facts), rate - coarse]  # float32 alone would turn 0.1 into 0.100000001
    values[_RATE] = coarse
    return values + [0.0] * (NUM_SLOTS - len(values))


def from_slots(numbers: Sequence[float]) -> Facts:
    """Read the sum of the facts of all processes.

    Args:
        numbers: One number a slot, summed over the processes.

    Returns:
        The facts.
    """
    finite, votes, drift, broken, rate, loss, losses, tag, squared, weight, spoiled, unnoticed, fine, *_ = numbers
    return Facts(
        finite_workers=round(finite),
        stop_votes=round(votes),
        squared_drift=drift,
        broken_workers=round(broken),
        learning_rate=rate + fine,
        loss_sum=loss,
        num_losses=round(losses),
        tag=round(tag),
        tag_squared=round(squared),
        weight=weight,
        spoiled=round(spoiled),
        unnoticed=round(unnoticed),
    )


@final
class Words:
    """Puts one process's facts where they travel, sync after sync.

    Python writes them into memory of its own that a tensor looks into, so that one small copy is all that torch has to do:
    to make a tensor takes many times as long, while the other processes wait.
    """

    def __init__(self, dtype: torch.dtype, *, is_first: bool) -> None:
        """Prepare.

        Args:
            dtype: That of the slots, float32 or float64.
            is_first: Whether this is the process whose learning rate counts.
        """
        self._is_first, self._facts = is_first, Facts(finite_workers=0)
        self._numbers = array("d" if dtype == torch.float64 else "f", to_slots(self._facts, is_first=is_first))
        self._tensor = torch.frombuffer(self._numbers, dtype=dtype)

    def write_(self, facts: Facts, slots: Tensor) -> None:
        """Write facts into slots.

        Args:
            facts: The facts; those of the sync before are there already.
            slots: Where they travel, shape (NUM_SLOTS,), of the dtype, on any device. Overwritten.
        """
        if facts != self._facts:
            self._numbers[:] = array(self._numbers.typecode, to_slots(facts, is_first=self._is_first))
            self._facts = facts
        slots.copy_(self._tensor)
