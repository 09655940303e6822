"""What processes tell each other in every exchange, and what each of them keeps in mind of it."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, final

from torch import Tensor

from localsgd.averaging.averager import Averager, Offender
from localsgd.averaging.facts import Facts
from localsgd.conversation.inspector import Inspector
from localsgd.conversation.ledger import Ledger
from localsgd.errors import SyncError

__all__ = ["Conversation", "Translation", "located"]


@final
class Conversation:
    """Words this process's facts, and takes notice of everybody's.

    Attributes:
        ledger: What each sync told.
        inspector: What judges exchanges.
        stop_wanted: Whether this process was asked to stop.
        stop_agreed: Whether a sync has told everyone that some process was.
    """

    def __init__(self, ledger: Ledger, inspector: Inspector, *, first_worker: int, everyone: Averager) -> None:
        """Begin.

        Args:
            ledger: The books.
            inspector: What judges exchanges.
            first_worker: Number of the worker in row 0.
            everyone: The block of all workers.
        """
        self.ledger, self.inspector = ledger, inspector
        self._first_worker, self._everyone = first_worker, everyone
        self.stop_wanted = self.stop_agreed = False

    def facts(
        self,
        block: Averager,
        offenders: Sequence[Offender],
        *,
        level: int,
        inner_lr: float,
        tag: int,
        squared_drift: float = 0.0,
        weights: Sequence[float] | None = None,
    ) -> Facts:
        """Word what this process has to tell.

        Args:
            block: Whom it tells.
            offenders: Rows of this process that are left out.
            level: Level of the block.
            inner_lr: Inner learning rate.
            tag: What the process believes this exchange to be.
            squared_drift: Sum of the squared drifts of its rows.
            weights: What each of its rows counts; ``None`` lets all count alike.

        Returns:
            The facts.
        """
        loss_sum, num_losses = self.ledger.losses(level)
        weight = float(len(block.members) - len(offenders))
        if weights is not None:
            excluded = {offender.worker - self._first_worker for offender in offenders}
            weight = sum(weights[row] for row in block.members if row not in excluded)
        return Facts(
            weight=weight,
            tag=tag,
            tag_squared=tag**2,
            loss_sum=loss_sum,
            num_losses=num_losses,
            learning_rate=inner_lr,
            finite_workers=len(block.members) - len(offenders),
            stop_votes=int(self.stop_wanted and block is self._everyone),
            squared_drift=squared_drift,
            broken_workers=sum(offender.is_broken for offender in offenders) if offenders else 0,
        )

    def note(self, about: dict[str, Any], total: Facts, vectors: Sequence[Tensor]) -> None:
        """Keep in mind what everybody told.

        Args:
            about: The account of this sync.
            total: The facts, summed over the block.
            vectors: What was exchanged.
        """
        self.ledger.note(about, total, vectors)
        # Votes travel only among everyone: a stop that one block knows of would leave the others waiting.
        self.stop_agreed = self.stop_agreed or total.stop_votes > 0


def located(error: SyncError, *, step: int, level: int) -> SyncError:
    """Turn the failure of a collective into an error that says which sync it was.

    Args:
        error: The failure.
        step: Steps taken by each worker.
        level: Level of the topology.

    Returns:
        The error to raise from it.
    """
    return SyncError(f"sync at level {level} after step {step} failed: {error}")


@final
class Translation:
    """Raises what `located` makes of the failure of a collective; used in a ``with`` statement."""

    def __init__(self, *, step: int, level: int) -> None:
        """Remember which sync it is.

        Args:
            step: Steps taken by each worker.
            level: Level of the topology.
        """
        self._step, self._level = step, level

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SyncError):
            raise located(error, step=self._step, level=self._level) from error
