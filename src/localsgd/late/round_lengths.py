"""How long the rounds of a schedule ever get, as far as that is fixed in advance."""

import itertools

from localsgd.schedules import (
    Decreasing,
    Every,
    Never,
    PostLocal,
    QuadraticRule,
    Schedule,
    Sequence,
    Warmup,
    sync_steps,
)

__all__ = ["longest_round"]


def longest_round(schedule: Schedule) -> int | None:
    """Say how many steps the longest round has that a schedule can ever ask for.

    Args:
        schedule: The schedule of one level.

    Returns:
        The steps; ``None`` if they depend on what is observed, if a round has no end, or if the schedule is not one of
        ours.

    Cost:
        A `QuadraticRule` with learning rates is gone through once.

    Example:
        >>> from localsgd.schedules import Never
        >>> longest_round(PostLocal(100, 16)), longest_round(Sequence([(10, Every(4)), (None, Every(2))]))
        (16, 4)
        >>> longest_round(Never()) is None
        True
    """
    match schedule:
        case Every() | PostLocal() | Warmup():
            return schedule.period
        case Decreasing():
            return schedule.initial_period
        case QuadraticRule(learning_rates=rates, num_steps=int(num_steps)) if rates is not None:
            ends = [0, *sync_steps(schedule, num_steps)]
            return max(end - begin for begin, end in itertools.pairwise(ends))
        case Sequence():
            return _longest_of(schedule)
    return None


def _longest_of(sequence: Sequence) -> int | None:
    """Look at all parts; one that ends cuts its last round, and may end before its first."""
    longest, begin = 0, 0
    for until, schedule in sequence.parts:
        length = None if until is None else until - begin
        own = length if isinstance(schedule, Never) else longest_round(schedule)
        if own is None:
            return None
        longest = max(longest, own if length is None else min(own, length))
        begin = until or begin
    return longest
