"""The clock of a run: steps taken, the rounds of each level, and when they end."""

from collections.abc import Callable
from typing import Any, final

from localsgd._checks import require
from localsgd.errors import ArgumentError
from localsgd.schedules import Observation, Schedule, WatchingSchedule

__all__ = ["Clock"]


@final
class Clock:
    """Counts the steps of each worker and asks the schedules for the end of each round.

    Attributes:
        steps: Steps that each worker has taken.
    """

    def __init__(self, schedules: tuple[Schedule, ...], observation: Observation) -> None:
        """Start at step 0.

        Args:
            schedules: When to sync at each level, innermost first.
            observation: What the workers agree on at the start.
        """
        # A watching schedule is asked after every step instead. To look for one takes longer than all the rest of a round.
        self._schedules = [None if isinstance(schedule, WatchingSchedule) else schedule for schedule in schedules]
        self.steps = 0
        self._last = [0] * len(schedules)
        self._next = [_ask(schedule, 0, observation) for schedule in self._schedules]

    @property
    def next_sync(self) -> int | None:
        """Value of ``steps`` at which the next sync at any level is due; ``None`` if none is to come."""
        return min((step for step in self._next if step is not None), default=None)

    @property
    def steps_in_round(self) -> int:
        """Steps since everyone last synced with everyone."""
        return self.steps - self._last[-1]

    @property
    def is_flushed(self) -> bool:
        """Whether everyone has synced with everyone since the last step."""
        return self._last[-1] == self.steps

    @property
    def round(self) -> tuple[int, int | None]:
        """Values of ``steps`` at which the round of everyone began, and when it ends; ``None`` if that is not known."""
        return self._last[-1], self._next[-1]

    def level_due(self, step: int) -> int:
        """Say at which level a step ends a round.

        Args:
            step: A number of steps, not passed yet.

        Returns:
            The outermost level, counted from 1, which syncs for the levels below as well; 0 if no round ends there.
        """
        for level in range(len(self._next), 0, -1):
            due = self._next[level - 1]
            if due is not None and due <= step:  # a sync that failed is still due after the next step
                return level
        return 0

    def begin_rounds(self, level: int, observe: Callable[[int | None], Observation]) -> None:
        """Note that the workers have just synced, and ask when they will again.

        Args:
            level: Level of the sync; the rounds of the levels below begin, too.
            observe: Tells what the workers agree on now, given the steps that the round just ended was meant to have.
        """
        for index in range(level):
            end = self._next[index]
            meant = None if end is None else end - self._last[index]
            self._last[index] = self.steps
            self._next[index] = _ask(self._schedules[index], self.steps, observe(meant))

    def state(self) -> dict[str, Any]:
        """Give the numbers to save."""
        return {"steps": self.steps, "last_syncs": list(self._last), "next_syncs": list(self._next)}

    def load(self, state: dict[str, Any]) -> None:
        """Take saved numbers.

        Args:
            state: What `state` returned.

        Raises:
            ArgumentError: If it has another number of levels.
        """
        num_levels = len(state["next_syncs"])
        require(
            num_levels == len(self._next),
            f"state holds the rounds of {num_levels} level(s), there are {len(self._next)} now; resume with the topology "
            "with which it was saved.",
        )
        self.steps, self._last, self._next = state["steps"], list(state["last_syncs"]), list(state["next_syncs"])


def _ask(schedule: Schedule | None, step: int, observation: Observation) -> int | None:
    if schedule is None:
        return None
    answer = schedule.next_sync(step, observation)
    is_later = isinstance(answer, int) and not isinstance(answer, bool) and answer > step
    if answer is not None and not is_later:  # to word it takes longer than all the rest
        raise ArgumentError(
            f"schedule={schedule!r} answers next_sync({step}) with {answer!r}; it must be a whole number > {step}, or None."
        )
    return answer
