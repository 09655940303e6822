"""One sync from beginning to end: mean, facts, outer optimizer, anchors, report."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch

from localsgd._checks import require
from localsgd.averaging.averager import Averager, BufferPolicy, Offender
from localsgd.averaging.consensus import Consensus, describe_drift
from localsgd.averaging.facts import Facts
from localsgd.buffers.flat import FlatRows
from localsgd.buffers.fragments import cut_rows
from localsgd.communicators.protocol import Communicator
from localsgd.compressed.mean import CompressedMean
from localsgd.compressed.payload_sums import PayloadSums
from localsgd.compression import Compressor
from localsgd.conversation.conversation import Conversation, Translation, located
from localsgd.conversation.inspector import Inspector, NonFinitePolicy
from localsgd.conversation.ledger import Ledger
from localsgd.errors import NonFiniteError, SyncError
from localsgd.gradients.rounds import GradientRounds
from localsgd.late.overlap import NOT_LATE, Overlap
from localsgd.late.syncs import LateSyncs
from localsgd.outer.averaging import Averaging
from localsgd.outer.protocol import OuterOptimizer
from localsgd.reports import SyncKind
from localsgd.topology import Topology

__all__ = ["Synchronizer"]


@final
class Synchronizer:
    """Carries out syncs: of blocks, of everyone, of gradients; at once, or started here and landing later.

    Attributes:
        ledger: What each sync told.
        conversation: What is told in every exchange.
        gradients: The rounds of one step, in which gradients are averaged instead.
        late: Syncs of everyone's parameters that overlap or go by fragments; ``None`` where they do neither.
    """

    def __init__(
        self,
        rows: FlatRows,
        communicators: Sequence[Communicator],
        topology: Topology,
        *,
        first_worker: int,
        outer: OuterOptimizer,
        compressor: Compressor | None,
        buffers: BufferPolicy,
        non_finite: NonFinitePolicy,
        measure_drift: bool,
        keep_anchor: bool,
        counts_steps: bool,
        overlap_gradients: bool,
        overlap: Overlap,
    ) -> None:
        """Prepare to sync; the rows must already be alike on every worker.

        Args:
            rows: The workers of this process.
            communicators: The processes of this process's block at each level, innermost first.
            topology: Who averages with whom.
            first_worker: Number of the worker in row 0.
            outer: What to do with everyone's mean.
            compressor: What makes the payloads of a sync of everyone's parameters; ``None`` sends them as they are.
            buffers: What to do with floating module buffers.
            non_finite: What to do with a worker that is not finite.
            measure_drift: Whether to report drift and cosine when everyone averages.
            keep_anchor: Whether to keep an anchor even if neither ``outer``, ``compressor`` nor the report needs it.
            counts_steps: Whether all workers take the same number of steps, so that they can be compared.
            overlap_gradients: Whether gradients may be sent while backward still runs.
            overlap: How syncs of everyone's parameters overlap with steps, and in how many fragments they go.
        """
        self._rows, self._topology = rows, topology
        self._first_worker = first_worker
        self._inspector = Inspector(rows, topology, non_finite=non_finite, counts_steps=counts_steps)

        def averagers(level: int, policy: BufferPolicy) -> list[Averager]:
            blocks = topology.row_blocks(level, rows.num_rows)
            own = communicators[level - 1]
            return [Averager(rows, own, members=b, first_worker=first_worker, buffers=policy) for b in blocks]

        self._levels = [averagers(level, buffers) for level in range(1, topology.num_levels + 1)]
        self._everyone = self._levels[-1][0]
        (self._reader,) = averagers(topology.num_levels, "average" if buffers == "local" else buffers)
        self.ledger = Ledger(topology)
        self.conversation = Conversation(
            self.ledger, self._inspector, first_worker=first_worker, everyone=self._everyone
        )
        self.gradients = GradientRounds(self._levels, self.conversation, overlaps=overlap_gradients)
        self._measure_drift = measure_drift
        fragments = cut_rows([group.layout for group in rows.groups], overlap.fragments)
        about_rows: dict[str, Any] = {"first_worker": first_worker, "fragments": fragments}
        self._compressed: CompressedMean | None = None
        if compressor is not None and topology.block_sizes[-1] > 1:  # one block has nobody to tell anything
            sums = PayloadSums(compressor, self._everyone, topology, **about_rows)
            self._compressed = CompressedMean(sums, self._everyone, **about_rows)
        keeps_anchor = measure_drift or keep_anchor or outer.needs_anchor or self._compressed is not None
        # Plain averaging leaves the mean as it is: to cut vectors for it would take longer than many a model's sum.
        self._moves_mean = keeps_anchor or not isinstance(outer, Averaging)
        self._consensus = Consensus(rows, outer, fragments, keeps_anchor=keeps_anchor)
        self._aligned_at: int | None = None
        self._postponed: NonFiniteError | None = None
        self.late: LateSyncs | None = None
        if overlap.is_late:
            self.late = LateSyncs(
                self._everyone,
                topology,
                first_worker=first_worker,
                consensus=self._consensus,
                conversation=self.conversation,
                sums=None if self._compressed is None else self._compressed.sums,
                fragments=fragments,
                overlap_steps=overlap.steps,
                mixing=overlap.mixing,
                measure_drift=measure_drift,
            )

    def average_parameters(
        self, *, step: int, level: int, kind: SyncKind, inner_lr: float, weights: Sequence[float] | None = None
    ) -> list[int]:
        """Average the workers' parameters, step the outer optimizer, and start every row from the result.

        Where syncs are late, one that ends a round of everyone's is only started; what is under way lands before any other.

        Args:
            step: Steps taken by each worker.
            level: Level of the topology, for report and errors.
            kind: Why this sync happens.
            inner_lr: Learning rate of the round just ended.
            weights: What each row of this process counts in the mean; ``None`` lets all count alike.

        Returns:
            Rows of this process that were left out of the mean, which they now hold.

        Raises:
            BrokenViewError: If a parameter no longer looks into its row.
            DisagreementError: If processes did not mean to do the same.
            NonFiniteError: If a worker is not finite and the policy says so, or if none is; on every process.
            SyncError: If the collective fails.

        Cost:
            One all-reduce a group. Every process must call this.
        """
        if self.late is None or level < self._topology.num_levels:
            return self._average_level(step=step, level=level, kind=kind, inner_lr=inner_lr, weights=weights)
        if kind == "parameters":
            return self._start_late(functools.partial(self.late.start_rest, step), step=step, inner_lr=inner_lr)
        excluded = self.late.land(step, due_only=False)
        excluded += self._average_level(step=step, level=level, kind=kind, inner_lr=inner_lr)
        self.late.note_whole_sync(step)
        return excluded

    def start_fragments(self, step: int, around: tuple[int, int | None], *, inner_lr: float) -> None:
        """Start the fragments that are due inside a round, if there are any.

        Args:
            step: Steps taken by each worker.
            around: Steps after which the round began, and at which it ends; ``None`` if that is not known.
            inner_lr: Learning rate of the steps just taken.

        Raises:
            DisagreementError: As `average_parameters` does; so are the others.
            NonFiniteError: If a worker is not finite, or was not when what had to land started.
            SyncError: If an exchange fails.

        Cost:
            One all-reduce a group for each of them. Every process must call this.
        """
        if self.late is None or not self.late.has_due_fragment(step, *around):
            return
        start = functools.partial(self.late.start_fragments, step, begin=around[0], end=around[1])
        self._start_late(start, step=step, inner_lr=inner_lr, aligns=self.late.overlaps)

    def raise_postponed(self) -> None:
        """Tell, after all that happens at a step, what went wrong inside this process's block alone."""
        error, self._postponed = self._postponed, None
        if error is not None:
            raise error

    def blocks(self, level: int) -> Sequence[Averager]:
        """List this process's blocks at a level.

        Args:
            level: Level of the topology.

        Returns:
            What averages each of them.
        """
        return self._levels[level - 1]

    def measure_drift(self) -> float:
        """Measure how far the workers are from the anchor, without a sync.

        Returns:
            Root mean square over all workers; the same on every process, and not finite if a worker is not.

        Raises:
            SyncError: If the exchange fails.

        Cost:
            One pass over the rows and one all-reduce of a single number. Every process must call this.
        """
        drift = self._everyone.worker.sum(self._everyone.squared_drift(self._consensus.anchors))
        total = torch.tensor([drift], dtype=torch.float64, device=self._rows.groups[0].layout.device)
        self._everyone.communicator.all_reduce_(total)
        return math.sqrt(total.item() / self._everyone.num_workers)

    def conclude_gradients(self, step: int, *, has_stepped: bool) -> None:
        """Let the outer optimizer act after a round whose gradients were averaged; nothing is exchanged.

        Args:
            step: Steps taken by each worker.
            has_stepped: Whether anybody has moved in the round's step.
        """
        if self.late is not None:
            self.late.note_whole_sync(step)
        if has_stepped and self._consensus.anchors:
            vectors = [g.storage[0].to(g.layout.accumulation_dtype) for g in self._rows.groups]
            self._consensus.step_(vectors, inner_lr=self.ledger.told["learning_rate"])
            for group, vector in zip(self._rows.groups, vectors, strict=True):
                parameters = slice(0, group.layout.num_parameters)
                for row in group.storage:
                    if row.data_ptr() != vector.data_ptr():
                        row[parameters].copy_(vector[parameters])

    def read_consensus_(self, *, step: int) -> None:
        """Replace every row by the workers' mean, module buffers included, without a trace in reports or anchors.

        Args:
            step: Steps taken by each worker, for errors.

        Raises:
            NonFiniteError: If a worker is not finite and the policy says so, or if none is; on every process.
            SyncError: If the collective fails.

        Cost:
            One all-reduce a group. Every process must call this.
        """
        level = self._topology.num_levels
        with Translation(step=step, level=level):
            vectors, offenders = self._reader.sum_rows_()
            tag = self._inspector.tag("averaged()", step)
            facts = self.conversation.facts(self._reader, offenders, level=level, inner_lr=0.0, tag=tag)
            total = self._reader.exchange_(vectors, facts)
            self._inspector.require_same_call(self._reader, total, kind="averaged()", step=step)
            self._inspector.judge(self._reader, total, offenders, step=step, level=level)
            self._reader.spread_(vectors)

    def state(self) -> dict[str, Any]:
        """Give what has to be saved; tensors are not copies."""
        late = {} if self.late is None else self.late.state()  # waits for what is under way, which changes what is owed
        compressed = {} if self._compressed is None else self._compressed.sums.state()
        return self._consensus.state() | self.ledger.state() | compressed | late

    def load(self, state: dict[str, Any]) -> None:
        """Take a saved state of the same shapes.

        Args:
            state: What `state` returned.

        Raises:
            ArgumentError: If the state holds more or fewer anchors than the options ask for, or does not have the residuals
                or snapshots of this process's workers.
        """
        sums = None if self._compressed is None else self._compressed.sums
        own = None if sums is None else sums.state()["compression"]
        require(
            state.get("compression") == own,
            f"state was saved with compression={state.get('compression')}, and now it is compression={own}; resume with the "
            "compression with which it was saved.",
        )
        late = NOT_LATE if self.late is None else self.late.describe()
        require(
            state.get("overlap", NOT_LATE) == late,
            f"state was saved with {state.get('overlap', NOT_LATE)}, and now it is {late}; resume with the same options.",
        )
        self._consensus.require_fit(state)
        parts = [part for part in (self.late, sums) if part is not None]  # what is under way ends before all else
        for part in parts:
            part.require_fit(state)
        for part in parts:
            part.load(state)
        self._aligned_at = None
        self._consensus.load(state)
        self.ledger.load(state)

    def _start_late(
        self, start: Callable[..., list[int]], *, step: int, inner_lr: float, aligns: bool = True
    ) -> list[int]:
        """Start a sync after the average of the blocks below, whose workers are to stay alike while it is under way."""
        below = self._topology.num_levels - 1
        if not (aligns and below) or self._aligned_at == step:
            return start(inner_lr=inner_lr)
        excluded = []
        try:
            excluded = self._average_level(step=step, level=below, kind="parameters", inner_lr=inner_lr, is_sync=False)
        except NonFiniteError as error:
            self._postponed = error  # the other blocks have not heard of it, and start as well
        return excluded + start(inner_lr=inner_lr)

    def _average_level(
        self,
        *,
        step: int,
        level: int,
        kind: SyncKind,
        inner_lr: float,
        weights: Sequence[float] | None = None,
        is_sync: bool = True,
    ) -> list[int]:
        about = self.ledger.begin(self._levels[level - 1], step=step, level=level, kind=kind)
        excluded: list[Offender] = []
        try:
            for block in self._levels[level - 1]:
                is_compressed = block is self._everyone and self._compressed is not None
                average = self._average_compressed if is_compressed else self._average_block
                excluded += average(block, about, inner_lr=inner_lr, weights=weights)
        except SyncError as error:
            raise located(error, step=step, level=level) from error
        self.ledger.close(about, self._levels[level - 1], is_sync=is_sync)
        if level >= self._topology.num_levels - 1:
            self._aligned_at = step
        return [offender.worker - self._first_worker for offender in excluded] if excluded else []

    def _average_block(
        self, block: Averager, about: dict[str, Any], *, inner_lr: float, weights: Sequence[float] | None
    ) -> list[Offender]:
        is_everyone = block is self._everyone
        measures = self._measure_drift and is_everyone
        drift = block.squared_drift(self._consensus.anchors) if measures else 0.0
        vectors, offenders = block.sum_rows_(weights)
        facts = self._facts(block, offenders, about, inner_lr=inner_lr, squared_drift=drift, weights=weights)
        total = block.exchange_(vectors, facts)
        self._inspector.require_same_call(block, total, kind=about["kind"], step=about["step"])
        self.conversation.note(about, total, vectors)
        if measures:
            about.update(describe_drift(total, block.squared_change(vectors, self._consensus.anchors)))
        if total.finite_workers:
            if is_everyone and self._moves_mean:
                fresh = self._fresh_fragments(about)
                self._consensus.step_(vectors, inner_lr=total.learning_rate, except_for=fresh)
            block.spread_(vectors)
        self._inspector.judge(block, total, offenders, step=about["step"], level=about["level"])
        return offenders

    def _average_compressed(
        self, block: Averager, about: dict[str, Any], *, inner_lr: float, weights: Sequence[float] | None
    ) -> list[Offender]:
        """Average everyone; unlike `_average_block` it is judged first, while rows and residuals are as they were."""
        compressed = self._compressed
        if compressed is None:
            return []
        drift = block.squared_drift(self._consensus.anchors) if self._measure_drift else 0.0
        offenders = compressed.sum_tails_(weights)
        facts = self._facts(block, offenders, about, inner_lr=inner_lr, squared_drift=drift, weights=weights)
        total = compressed.exchange_tails_(facts)
        self._inspector.require_same_call(block, total, kind=about["kind"], step=about["step"])
        self._inspector.judge(block, total, offenders, step=about["step"], level=about["level"], is_averaged=False)
        self.conversation.note(about, total, compressed.tails)
        fresh = self._fresh_fragments(about)
        synced = [fragment for fragment in range(compressed.sums.num_fragments) if fragment not in fresh]
        about["bytes_by_level"] = compressed.sums.with_payloads(about["bytes_by_level"], fragments=synced)
        if self._measure_drift:
            # What arrived does not tell where the workers' changes pointed.
            about.update(describe_drift(total, 0.0) | {"cosine": None})
        vectors = compressed.mean_(self._consensus.anchors, total, offenders, weights=weights, except_for=fresh)
        self._consensus.step_(vectors, inner_lr=total.learning_rate, except_for=fresh)
        block.spread_(vectors)
        compressed.spread_buffers_(total)
        return offenders

    def _facts(self, block: Averager, offenders: Sequence[Offender], about: dict[str, Any], **numbers: Any) -> Facts:
        tag = self._inspector.tag(about["kind"], about["step"])
        return self.conversation.facts(block, offenders, level=about["level"], tag=tag, **numbers)

    def _fresh_fragments(self, about: dict[str, Any]) -> list[int]:
        """List the fragments in which nobody has moved since their last sync, where they need not sync again."""
        is_flush = self.late is not None and about["kind"] == "flush"
        return self.late.fresh_fragments(about["step"]) if self.late is not None and is_flush else []
