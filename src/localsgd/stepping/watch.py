"""The round that goes on: how long it has lasted and what each row has seen, for schedules that watch it."""

import time
from collections.abc import Callable
from typing import final

from localsgd.schedules import RoundSoFar, Schedule, WatchingSchedule

__all__ = ["Watch"]


@final
class Watch:
    """Counts samples and time since the last sync of everyone, and asks a watching schedule whether the round is over.

    Attributes:
        is_watching: Whether there is such a schedule.
        weighs: Whether workers count in the mean by their samples.
    """

    def __init__(self, schedule: Schedule, num_rows: int) -> None:
        """Begin a round.

        Args:
            schedule: When everyone syncs.
            num_rows: Rows of this process (V).
        """
        self._watching = schedule if isinstance(schedule, WatchingSchedule) else None
        self.is_watching = self._watching is not None
        self.weighs = self._watching is not None and self._watching.weighs_by_samples
        self._num_rows = num_rows
        self.restart()

    def restart(self) -> None:
        """Begin a new round."""
        self._samples = [0.0] * self._num_rows
        self.restart_time()

    def restart_time(self) -> None:
        """Begin the time of the round anew, not its samples."""
        self._began = time.monotonic()

    def add(self, row: int, samples: float) -> None:
        """Count the samples of a row.

        Args:
            row: Its number.
            samples: How many more it has seen.
        """
        self._samples[row] += samples

    @property
    def weights(self) -> list[float] | None:
        """What each row counts in the mean; ``None`` lets all count alike."""
        return self._samples if self.weighs and any(self._samples) else None

    def is_over(self, steps: int, measure_drift: Callable[[], float]) -> bool:
        """Ask whether the round is over.

        Args:
            steps: Steps in it so far.
            measure_drift: Measures the workers' drift; called only if the schedule needs it.

        Returns:
            The answer; no if nobody is watching.
        """
        if self._watching is None:
            return False
        drift = measure_drift() if self._watching.needs_drift else None
        seconds = time.monotonic() - self._began
        return self._watching.is_over(RoundSoFar(steps=steps, seconds=seconds, drift_norm=drift))
