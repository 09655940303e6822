"""What a sync tells about itself, and the sums over all syncs of a run."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

__all__ = ["SyncKind", "SyncReport", "Totals"]

SyncKind = Literal["gradients", "parameters", "flush", "manual"]


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """One sync, as seen by this process; everything but seconds and wire bytes is the same on every process."""

    step: int
    """Steps taken by each worker when the workers synced."""
    round: int
    """Number of the round that ended, from 1."""
    level: int
    """Level of the topology: 1 is the innermost block."""
    kind: SyncKind
    """Gradients averaged before a step, parameters averaged after it, the tail of an unfinished round, or on demand."""
    bytes_by_level: tuple[int, ...]
    """Bytes that one worker sends at each level for this sync when every worker is a process of its own: inside the
    innermost block, from there to the other blocks of the next larger one, and so on, each in a ring; payloads where they
    travel compressed."""
    wire_bytes: int
    """Bytes this process really sent, in payloads where they travel compressed; 0 where all workers live in one process."""
    seconds: float
    """Duration of the sync in this process."""
    seconds_waited: float
    """Part of ``seconds`` spent inside collectives: waiting for slower workers and for the wire."""
    drift_norm: float | None
    """Root mean square over the workers of their distance to the anchor; ``None`` unless ``measure_drift``."""
    cosine: float | None
    """Mean cosine between the changes of different workers, weighted by their norms; ``None`` unless measured, with one
    worker, where nobody moved, or where changes travelled compressed."""
    learning_rate: float
    """Inner learning rate of the round just ended, as the first process of the block has it."""
    train_loss: float | None
    """Mean of the losses reported with `LocalSGD.observe` since the last sync of this level; ``None`` if there were none."""
    finite_workers: int
    """Workers whose values entered the mean, of the block of this process's first worker."""
    fragment: int | None = None
    """Number of the fragment that was synced, from 0; ``None`` if all parameters were. A fragment counts as a round."""
    overlapped_steps: int = 0
    """Steps that each worker took from ``step``, when the sync started, until it landed; ``seconds`` are those of its start
    and its landing, ``seconds_waited`` those for which its landing had to wait."""

    @property
    def bytes_sent(self) -> int:
        """Sum of ``bytes_by_level``: for plain averaging what a ring over all workers of the block sends."""
        return sum(self.bytes_by_level)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over all syncs since construction; restored with the state."""

    rounds: int = 0
    """Syncs so far."""
    bytes_by_level: tuple[int, ...] = ()
    """Sum of `SyncReport.bytes_by_level`."""
    wire_bytes: int = 0
    """Sum of `SyncReport.wire_bytes`."""
    seconds: float = 0.0
    """Sum of `SyncReport.seconds`."""
    seconds_waited: float = 0.0
    """Sum of `SyncReport.seconds_waited`."""

    @property
    def bytes_sent(self) -> int:
        """Sum of ``bytes_by_level``."""
        return sum(self.bytes_by_level)

    def plus(self, report: SyncReport) -> "Totals":
        """Add one sync.

        Args:
            report: The sync.

        Returns:
            New totals.
        """
        return Totals(
            rounds=self.rounds + 1,
            bytes_by_level=tuple(
                old + new for old, new in zip_longest(self.bytes_by_level, report.bytes_by_level, fillvalue=0)
            ),
            wire_bytes=self.wire_bytes + report.wire_bytes,
            seconds=self.seconds + report.seconds,
            seconds_waited=self.seconds_waited + report.seconds_waited,
        )
