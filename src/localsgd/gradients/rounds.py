"""Rounds of one step: gradients collected, sent, judged and handed out again, on every level of a topology."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, final

import torch
from torch import Tensor

from localsgd.averaging.averager import Averager, Offender
from localsgd.averaging.facts import Facts, from_slots, to_slots
from localsgd.conversation.conversation import Conversation, Translation
from localsgd.errors import StateError
from localsgd.gradients.mean import GradientMean

__all__ = ["GradientRounds", "Staging"]

Staging = Literal["row by row", "together", "averaged"]
"""How far gradients have come: each row staged, all of them without looking, or averaged already."""

_REPLICA_CHECK_ROUNDS = 100
_UNNOTICED = (
    "{number} process(es) changed gradients between backward and step {step} in a way that leaves no trace (p.grad.data, "
    "NumPy, a collective of the loop's own); earlier rounds, which sent gradients during backward, may have averaged "
    "unchanged ones. Construct LocalSGD with overlap_gradients=False."
)


@final
class GradientRounds:
    """Averages gradients instead of parameters."""

    def __init__(self, levels: Sequence[Sequence[Averager]], conversation: Conversation, *, overlaps: bool) -> None:
        """Prepare.

        Args:
            levels: This process's blocks at each level, innermost first.
            conversation: What is told in every exchange.
            overlaps: Whether to send gradients while backward still runs, where that is possible.
        """
        self._levels, self._conversation = levels, conversation
        self._means = [[GradientMean(block, overlaps=overlaps) for block in level] for level in levels]
        self._num_rows = levels[0][0].rows.num_rows
        self._num_rounds = 0
        self.can_overlap = any(mean.pipeline is not None for level in self._means for mean in level)

    def expect(self, level: int, scaler: torch.amp.GradScaler | None = None) -> None:
        """Say what the coming step will average, so that gradients may be sent as soon as they are there.

        Args:
            level: Level at which gradients will be averaged; 0 if they will not be.
            scaler: What scales the coming step's loss, as far as known.

        Cost:
            One new group of processes at the first call for a level. Every process must call this alike.
        """
        for index, means in enumerate(self._means, start=1):
            for mean in means:
                if index == level:
                    mean.expect(scaler)
                elif mean.pipeline is not None:
                    mean.pipeline.unhook()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Send nothing before the step inside a ``with`` block."""
        with ExitStack() as stack:
            for mean in (mean for level in self._means for mean in level):
                if mean.pipeline is not None:
                    stack.enter_context(mean.pipeline.held())
            yield

    def note_changes(self, row: int, scaler: torch.amp.GradScaler | None, *, level: int) -> None:
        """Look whether gradients that were sent already have changed since; to be called before they are unscaled.

        Args:
            row: Number of the row.
            scaler: What scaled the loss of this step.
            level: Level at which gradients will be averaged.
        """
        pipeline = self._mean(row, level).pipeline
        if pipeline is not None:
            pipeline.note_changes(scaler)

    def stage(self, row: int, *, level: int) -> None:
        """Add the gradients of a row to its block's share of the mean.

        Args:
            row: Number of the row; the rows come in order.
            level: Level at which gradients will be averaged.
        """
        self._mean(row, level).stage(row)

    def stage_rows(self, found: Tensor) -> None:
        """Add up the gradients of all rows for everyone's mean without waiting for the device; nothing is looked at.

        It may be captured in a CUDA graph, and so may `settle` and `load_rows`, after a round that went row by row: that one
        takes the memory, and finds what cannot be staged. The memory stays where it is until some workers step alone.

        Args:
            found: One flag for each row of the process, float32, shape (V,), on the device. Becomes 1 where something is not
                finite, else stays; what is staged is worthless then.
        """
        self._means[-1][0].stage_rows_(found)

    def settle(self) -> None:
        """Make what is staged the mean, where this process is the only one; what is left is to note that."""
        self._means[-1][0].settle_()

    def load_rows(self) -> None:
        """Give all rows everyone's mean gradient, in memory that they share; optimizers must not change it."""
        self._means[-1][0].load_rows_()

    def average(
        self, *, step: int, level: int, inner_lr: float, lenient: bool, is_sync: bool, staged: Staging = "row by row"
    ) -> list[bool]:
        """Average the gradients that were staged.

        Args:
            step: Steps taken by each worker, the coming one included.
            level: Level of the topology.
            inner_lr: Learning rate of the coming step.
            lenient: A GradScaler is at work: gradients that overflow are expected, and no worker of the block takes the step
                then.
            is_sync: Whether this ends the round; otherwise it counts towards the sync at a higher level that follows.
            staged: How far gradients have come; those that are averaged already are only noted.

        Returns:
            For each row whether its optimizer may step.

        Raises:
            BrokenViewError: If a parameter no longer looks into its row.
            NonFiniteError: If a gradient is not finite and the policy says so, or if none is; before any optimizer steps.
            StateError: If gradients are changed in a way that cannot be noticed, after they were sent; on every process.
            SyncError: If the collective fails.

        Cost:
            One all-reduce a group, and one for each bucket that is sent ahead. Every process must call this.
        """
        may_step: list[bool] = []
        blocks, conversation, inspector = self._levels[level - 1], self._conversation, self._conversation.inspector
        about = conversation.ledger.begin(blocks, step=step, level=level, kind="gradients")
        tag = inspector.tag("gradients", step)
        with Translation(step=step, level=level):
            self._num_rounds += 1
            for block, mean in zip(blocks, self._means[level - 1], strict=True):
                if staged != "row by row":
                    mean.offenders = []

                def tell(offenders: list[Offender], block: Averager = block) -> Facts:
                    return conversation.facts(block, offenders, level=level, inner_lr=inner_lr, tag=tag)

                def look(total: Facts, block: Averager = block) -> None:
                    inspector.require_same_call(block, total, kind="gradients", step=step)

                total = _as_told(tell([]), mean.vectors) if staged == "averaged" else mean.exchange(tell, look)
                conversation.note(about, total, mean.vectors)
                if total.unnoticed:
                    raise StateError(_UNNOTICED.format(step=step, number=total.unnoticed))
                if self._num_rounds % _REPLICA_CHECK_ROUNDS == 0:
                    inspector.require_replicas(block)
                is_whole = total.finite_workers == block.num_workers
                if not lenient or total.broken_workers:
                    inspector.judge(block, total, mean.offenders, step=step, level=level)
                may_step += [is_whole or not lenient] * len(block.members)
        conversation.ledger.close(about, blocks, is_sync=is_sync)
        return may_step

    def load(self, row: int, *, level: int) -> None:
        """Put the mean gradient into the parameters of a row.

        Args:
            row: Number of the row.
            level: Level at which gradients were averaged.
        """
        self._mean(row, level).load(row)

    def release(self, row: int, *, level: int) -> None:
        """Take shared gradients away from a row again.

        Args:
            row: Number of the row.
            level: Level at which gradients were averaged.
        """
        self._mean(row, level).release(row)

    def discard(self, *, above: int) -> None:
        """Give back the memory at levels where gradients will not be averaged again soon.

        Args:
            above: The highest level that keeps its memory.
        """
        for mean in (mean for level in self._means[above:] for mean in level):
            mean.discard()

    def _mean(self, row: int, level: int) -> GradientMean:
        means = self._means[level - 1]
        return means[row * len(means) // self._num_rows]


def _as_told(facts: Facts, vectors: Sequence[Tensor]) -> Facts:
    """Give the facts of a single process as they come out of a vector's slots, rounded to its numbers."""
    return from_slots(torch.tensor(to_slots(facts, is_first=True), dtype=vectors[0].dtype).tolist())
