"""How syncs of everyone's parameters overlap with steps and go by fragments, and with what that does not go together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from localsgd._checks import require, require_at_least, require_fraction
from localsgd.late.round_lengths import longest_round
from localsgd.schedules import Decreasing, Schedule, Sequence, WatchingSchedule

__all__ = ["NOT_LATE", "Overlap", "find_overlap", "require_overlap"]


NOT_LATE = "overlap_steps=0, overlap_mixing=None, fragments=1"
"""How options are worded that let every sync land where it starts."""


@final
@dataclass(frozen=True, kw_only=True)
class Overlap:
    """When a sync of everyone's parameters lands, and in how many fragments it goes."""

    steps: int = 0
    """Steps from the start of a sync until it lands (tau)."""
    mixing: float | None = None
    """A worker's own share when a sync lands; ``None`` keeps its progress instead."""
    fragments: int = 1
    """In how many fragments the parameters sync, one after the other (F)."""

    @property
    def is_late(self) -> bool:
        """Whether not all parameters are synced at once, there and then."""
        return self.steps > 0 or self.fragments > 1


def require_overlap(options: Mapping[str, Any]) -> None:
    """Check the options of `LocalSGD` that say how syncs overlap, as far as they do not depend on the topology.

    Args:
        options: All options, by name.

    Raises:
        ArgumentError: If one of them cannot be honoured, or not together with another.
    """
    steps, mixing, fragments = options["overlap_steps"], options["overlap_mixing"], options["fragments"]
    require_at_least("overlap_steps", steps, 0, fix="0 waits for each sync")
    require_at_least("fragments", fragments, 1, fix="1 syncs all parameters at once")
    if mixing is not None:
        require_fraction("overlap_mixing", mixing, fix="use None to keep the workers' progress")
        require(
            steps > 0,
            f"overlap_mixing={mixing!r} needs overlap_steps >= 1: a sync that lands where it started finds no progress to "
            "mix with; use None.",
        )
    if steps == 0 and fragments == 1:
        return
    what = f"overlap_steps={steps}" if steps else f"fragments={fragments}"
    state = options["optimizer_state"]
    require(
        state == "keep",
        f"{what} cannot be combined with optimizer_state={state!r}, for which all workers would have to be alike, "
        "and to wait for each other, when a sync ends; use 'keep'.",
    )
    require(
        fragments == 1 or options["non_finite"] == "raise",
        f"fragments={fragments} cannot be combined with non_finite='exclude': a worker that is not finite spoils each "
        "fragment that it takes over with the others, which are still its own, before their turn comes; use 'raise'.",
    )


def find_overlap(options: Mapping[str, Any], schedule: Schedule) -> Overlap:
    """Take the options that say how syncs overlap, and match them with when everyone syncs.

    Args:
        options: All options, by name, which `require_overlap` has found good.
        schedule: When everyone syncs: the schedule of the last level.

    Returns:
        The options.

    Raises:
        ArgumentError: If a sync would land only after the next has started, in every round; if there are more fragments than
            steps in any round; or if rounds end by what was observed meanwhile.
    """
    overlap = Overlap(steps=options["overlap_steps"], mixing=options["overlap_mixing"], fragments=options["fragments"])
    if not overlap.is_late:
        return overlap
    what = f"overlap_steps={overlap.steps}" if overlap.steps else f"fragments={overlap.fragments}"
    require(
        not isinstance(schedule, WatchingSchedule),
        f"{what} cannot be combined with {schedule!r}: its rounds end by what is watched, so nobody knows in advance when "
        "the next sync starts; use a schedule in steps.",
    )
    require(
        not (overlap.steps and _looks_at_loss(schedule)),
        f"overlap_steps={overlap.steps} cannot be combined with {schedule!r}: it decides by the loss that each sync tells, "
        "which arrives when the next round has begun; use a schedule that looks at no loss, or overlap_steps=0.",
    )
    longest = longest_round(schedule)
    if longest is not None:
        require(
            overlap.steps < longest,
            f"overlap_steps={overlap.steps} must be < {longest}, the longest round of {schedule!r}: a sync has to land "
            f"before the next one starts; use {longest - 1} at most, or a longer period.",
        )
        require(
            overlap.fragments <= longest,
            f"fragments={overlap.fragments} must be <= {longest}, the longest round of {schedule!r}, so that each fragment "
            "has a step of its own; use fewer, or a longer period.",
        )
    return overlap


def _looks_at_loss(schedule: Schedule) -> bool:
    if isinstance(schedule, Sequence):
        return any(_looks_at_loss(part) for _, part in schedule.parts)
    return isinstance(schedule, Decreasing)
