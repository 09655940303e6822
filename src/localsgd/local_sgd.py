"""LocalSGD: steps on every worker's own copy, and an average of the copies when the schedule says so."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from localsgd import construction
from localsgd._checks import require
from localsgd.attachment import Attachment, divert_scaler, hook_optimizer
from localsgd.averaging.averager import BufferPolicy
from localsgd.averaging.optimizer_state import OptimizerState, OptimizerStatePolicy
from localsgd.buffers.fragments import cut_rows
from localsgd.communicators import Communicator, communicators_by_level
from localsgd.compression import Compressor
from localsgd.conversation.inspector import NonFinitePolicy
from localsgd.errors import StateError
from localsgd.late.overlap import find_overlap
from localsgd.outer import Averaging, OuterOptimizer
from localsgd.reading import hold_consensus
from localsgd.reports import SyncReport, Totals
from localsgd.schedules import Schedule, WatchingSchedule
from localsgd.stepping.stepper import OneStepRounds, Stepper
from localsgd.synchronizer import Synchronizer
from localsgd.topology import Topology

__all__ = ["LocalSGD"]

_AVERAGING = Averaging()
_STATE_VERSION = 1


@final
class LocalSGD:
    """Train K = rows x processes workers that average their models when a schedule says so.

    Replace ``optimizer.step()`` by ``local.step()`` and call ``local.finish()`` at the end. Every process must construct
    LocalSGD alike and call the same methods in the same order; the models start from worker 0's values.

    A round of one step averages gradients before the optimizers step, as long as all workers are replicas of each
    other, so that period 1 is synchronous mini-batch training for every optimizer; longer rounds average parameters.

    Attributes:
        topology: Who averages with whom.
        num_workers: K.
        first_worker: Number of the worker in row 0 of this process.
        rows: The workers of this process, as tensors that hold all of them.
        stepper: Counts the steps of whoever takes them without `step`.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
        schedule: Schedule,
        *,
        communicator: Communicator | None = None,
        topology: Topology | None = None,
        outer: OuterOptimizer = _AVERAGING,
        compression: Compressor | Sequence[Compressor | None] | None = None,
        buffers: BufferPolicy = "average",
        optimizer_state: OptimizerStatePolicy = "keep",
        one_step_rounds: OneStepRounds = "gradients",
        non_finite: NonFinitePolicy = "raise",
        clip_norm: float | None = None,
        measure_drift: bool = False,
        overlap_gradients: bool = True,
        overlap_steps: int = 0,
        overlap_mixing: float | None = None,
        fragments: int = 1,
    ) -> None:
        """Move the models into flat rows, check that all processes agree, and start everyone from worker 0.

        Args:
            model: The model, or one a row (see `localsgd.replicate`). Its parameters become views into one tensor;
                they stay the same objects, with the same strides.
            optimizer: The optimizer of the model, or one a row. Used as it is; its schedulers stay bound to it.
            schedule: When to sync.
            communicator: Default: torch.distributed's world if initialised, else one process.
            topology: Default: one level, everyone with everyone.
            outer: What to do with the workers' mean.
            compression: What makes the payloads in which the blocks of the last level (the workers, where there is one
                level) tell each other how far they have moved, as in ``ErrorFeedback(Sign())``; or a list with one entry a
                level, ``None`` below the last. Only parameters travel so; also in syncs that overlap, and by fragments.
            buffers: Floating module buffers at a sync: ``average`` them, keep them ``local``, or take worker 0's
                (``broadcast``).
            optimizer_state: The workers' own optimizer state when parameters are averaged: ``keep`` it (the paper),
                ``average`` it over the block, or ``reset`` it.
            one_step_rounds: What workers that are replicas average in a round of one step: ``gradients`` before the step, or
                ``parameters`` after it with momentum of their own, as the paper's code does; equal for SGD only.
            non_finite: At a sync with a worker that has infinities or NaNs: ``raise`` on every process, or ``exclude`` it
                from the mean, which it then takes over.
            clip_norm: Largest norm of the gradient that enters an optimizer step: of the worker's own gradient in a local
                step, of the mean gradient in a round of one step. ``None`` does not clip.
            measure_drift: Report drift and cosine at each sync.
            overlap_gradients: In rounds of one step, with one row a process, send gradients while backward still runs, as
                long as nothing changes them before the step (see `accumulate`).
            overlap_steps: A sync of everyone's parameters that starts after step t lands after step t + overlap_steps: each
                worker goes on meanwhile, and then moves by what the consensus differs from what it had at step t. 0 waits.
            overlap_mixing: Let it become ``overlap_mixing * own + (1 - overlap_mixing) * consensus`` instead, in [0, 1).
            fragments: Cut the parameters into so many fragments of whole tensors, which sync in turn, once a round each.

        Raises:
            ArgumentError: If a value or a combination cannot be honoured.
            DisagreementError: If processes or rows differ; on every process.

        Cost:
            No second copy of the model, but for an anchor (P values a process) where ``outer`` or ``compression`` needs it
            or drift is measured, and residuals (see `localsgd.compression.ErrorFeedback`); while a sync overlaps, a copy
            of the rows and one vector, and with payloads a thread. One broadcast of the model. Every process must call this.
        """
        options: dict[str, Any] = {"schedule": schedule, "topology": topology, "outer": outer, "buffers": buffers}
        options |= {"non_finite": non_finite, "clip_norm": clip_norm, "measure_drift": measure_drift}
        options |= {"optimizer_state": optimizer_state, "one_step_rounds": one_step_rounds}
        options |= {"overlap_gradients": overlap_gradients, "compression": compression}
        options |= {"overlap_steps": overlap_steps, "overlap_mixing": overlap_mixing, "fragments": fragments}
        self._communicator = own = construction.find_communicator(communicator)
        self._models, self._optimizers, self.rows = construction.prepare(model, optimizer, own, options=options)
        self.num_workers = self.rows.num_rows * self._communicator.world_size
        self.first_worker = self.rows.num_rows * self._communicator.rank
        self.topology = topology or Topology((self.num_workers,))
        schedules = construction.schedules_by_level(schedule, self.topology, self.num_workers)
        compressor = construction.find_compressor(compression, schedules, one_step_rounds=one_step_rounds)
        overlap = find_overlap(options, schedules[-1])
        cut_rows([group.layout for group in self.rows.groups], fragments)
        process_blocks = self.topology.process_block_sizes(self.rows.num_rows)
        construction.start_alike(self._models, self.rows, self._communicator)
        self._schedule = schedule
        self._attachment: Attachment | None = None
        self._synchronizer = Synchronizer(
            self.rows,
            communicators_by_level(self._communicator, process_blocks),
            self.topology,
            first_worker=self.first_worker,
            outer=outer,
            compressor=compressor,
            buffers=buffers,
            non_finite=non_finite,
            measure_drift=measure_drift,
            keep_anchor=isinstance(schedules[-1], WatchingSchedule) and schedules[-1].needs_drift,
            counts_steps=not (isinstance(schedules[-1], WatchingSchedule) and schedules[-1].weighs_by_samples),
            overlap_gradients=overlap_gradients and not construction.holds_ddp(self._models),
            overlap=overlap,
        )
        self.stepper = Stepper(
            self._models,
            self._optimizers,
            self._synchronizer,
            schedules=schedules,
            averages_gradients=one_step_rounds == "gradients",
            optimizer_state=OptimizerState(optimizer_state, self.rows, self._optimizers),
            clip_norm=clip_norm,
        )

    @property
    def steps(self) -> int:
        """Steps that each worker has taken."""
        return self.stepper.clock.steps

    @property
    def schedule(self) -> Schedule:
        """When to sync."""
        return self._schedule

    @property
    def next_sync(self) -> int | None:
        """Number of steps taken when the next sync, or the next fragment of one, starts or lands; ``None`` if none does."""
        return self.stepper.next_event

    @property
    def last_sync(self) -> SyncReport | None:
        """The latest sync; ``None`` before the first, and after `load_state_dict`."""
        return self._synchronizer.ledger.last_sync

    @property
    def recent_syncs(self) -> list[SyncReport]:
        """The latest syncs, at most 256, the earliest first; a call of `step` may end with several, of fragments."""
        return self._synchronizer.ledger.recent

    @property
    def is_synced(self) -> bool:
        """Whether no worker has stepped since the last sync of everyone, so that `finish` has nothing left to do."""
        return self.stepper.is_flushed

    @property
    def totals(self) -> Totals:
        """Sums over all syncs."""
        return self._synchronizer.ledger.totals

    @property
    def stop_requested(self) -> bool:
        """Whether a process was asked to stop, as far as all processes know: equal everywhere between two steps."""
        told = self._synchronizer.conversation
        return told.stop_agreed or (told.stop_wanted and self._communicator.world_size == 1 and not self.rows.shards)

    def request_stop(self) -> None:
        """Ask all processes to stop together; `stop_requested` becomes true on each after the same sync.

        Safe to call from a signal handler.
        """
        self._synchronizer.conversation.stop_wanted = True

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        row: int | None = None,
        num_samples: float = 1.0,
    ) -> Any:
        """Take one optimizer step on each worker of this process, and sync if the schedule says so.

        The clock counts attempted steps: one that a scaler skips on some worker counts all the same.

        Args:
            closure: Reevaluates the model and returns the loss, as for ``optimizer.step``. Only with a single row, and
                without ``clip_norm``.
            scaler: The GradScaler of the loop; call its ``update()`` afterwards as usual.
            row: Step only this row, whose gradients have just been computed; rows must come in order, and the clock ticks
                after the last. ``None`` steps all rows, whose gradients must all exist.
            num_samples: Samples in each row's batch; only schedules that weigh workers by samples look at it.

        Returns:
            What ``optimizer.step`` returned for the last row: the closure's loss, else ``None``.

        Raises:
            ArgumentError: If ``row`` is out of turn, or ``closure`` cannot be honoured.
            StateError: If `attach` follows the optimizer already.
            BrokenViewError: If a sync finds a parameter that was moved out of its row.
            NonFiniteError: If a worker is not finite at a sync and ``non_finite='raise'``; on every process.
            SyncError: If the collective fails.

        Cost:
            Without a sync no communication. With one, one all-reduce a dtype; every process must call this.
        """
        if self._attachment is not None and self._attachment.is_attached:
            raise StateError(
                "local.step() would count twice: attach() follows the optimizer already. Call one or the other."
            )
        return self.stepper.step(closure, scaler, row=row, num_samples=num_samples)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Mark backward passes that are not the last of their step, so that the last one may be overlapped.

        Not needed for a right result: gradients that change after they were sent are noticed, and sent again by everyone.

        Yields:
            Nothing.
        """
        with self._synchronizer.gradients.held():
            yield

    def observe(self, loss: Tensor | float) -> None:
        """Report the training loss of a step, for schedules that look at it and for the record of the sync.

        Args:
            loss: The loss of one row's step, a tensor of one element or a number; a tensor is not read before the next sync.
        """
        self._synchronizer.ledger.observe(loss)

    def attach(self, *, scaler: torch.amp.GradScaler | None = None) -> Attachment:
        """Follow an optimizer that somebody else steps: frameworks that call ``optimizer.step()`` themselves.

        Args:
            scaler: The GradScaler that steps the optimizer. Needed with mixed precision: a skipped step never reaches the
                optimizer's hooks, and the worker would fall out of phase.

        Returns:
            A handle whose ``remove()`` detaches again; usable in a ``with`` statement.

        Raises:
            ArgumentError: If this process holds several rows.
            StateError: If it is attached already.
        """
        require(len(self._models) == 1, "attach() needs a single row a process; call step(row=...) with several.")
        if self._attachment is not None and self._attachment.is_attached:
            raise StateError("this LocalSGD follows its optimizer already; remove() the first attachment.")
        if scaler is not None:
            step = functools.partial(self.stepper.step, None, scaler, row=None, num_samples=1.0)
            self._attachment = divert_scaler(scaler, self._optimizers[0], step=step)
        else:
            own = self.stepper
            self._attachment = hook_optimizer(self._optimizers[0], before=own.before, after=own.after)
        return self._attachment

    def sync(self, level: int | None = None) -> SyncReport:
        """Average the parameters now, whatever the schedule says.

        Args:
            level: Level of the topology, default the last (everyone).

        Returns:
            The report, also in `last_sync`.

        Raises:
            ArgumentError: If there is no such level.
            BrokenViewError: If a parameter was moved out of its row.
            NonFiniteError: If a worker is not finite and ``non_finite='raise'``.
            SyncError: If the collective fails.

        Cost:
            One all-reduce a dtype. Every process must call this.
        """
        self.stepper.require_idle("sync()")
        level = self.topology.num_levels if level is None else level
        self.topology.require_level(level)
        self.stepper.sync_parameters("manual", level=level)
        return self._synchronizer.ledger.latest()

    def finish(self) -> SyncReport | None:
        """Average the tail of an unfinished round, so that all workers end alike. Training may go on afterwards.

        Syncs that are under way land first; one that no step has followed leaves nothing else to do.

        Returns:
            The report; ``None`` if the last step ended with a sync.

        Raises:
            BrokenViewError: If a parameter was moved out of its row.
            NonFiniteError: If a worker is not finite and ``non_finite='raise'``.
            SyncError: If the collective fails.

        Cost:
            At most one sync. Every process must call this.
        """
        self.stepper.require_idle("finish()")
        if self.stepper.is_flushed:
            self.stepper.rest()
            return None
        self.stepper.land(due_only=False)
        if not self.stepper.is_flushed:
            self.stepper.sync_parameters("flush", level=self.topology.num_levels)
        self.stepper.rest()
        return self._synchronizer.ledger.latest()

    def averaged(self) -> AbstractContextManager[nn.Module]:
        """Hold the consensus model: every row has the workers' mean, module buffers included, until the block ends.

        Afterwards parameters, module buffers and training modes are what they were, bit for bit, also when the body
        raises. Neither steps nor syncs are allowed inside. A sync that is under way stays so: what it will change has mean
        zero with plain averaging, without mixing; otherwise the step that it brings is not there yet.

        Returns:
            A context manager that gives the first row's model.

        Raises:
            BrokenViewError: If a parameter was moved out of its row.
            NonFiniteError: If a worker is not finite and ``non_finite='raise'``.
            StateError: If the blocks are nested, or some rows have stepped and others have not.

        Cost:
            One copy of the rows while the block lasts; one all-reduce a dtype at its beginning. Every process must enter;
            leaving is silent.
        """
        return hold_consensus(self.rows, self._models, self.stepper, synchronizer=self._synchronizer)

    def state_dict(self) -> dict[str, Any]:
        """Collect everything between two steps that is not in the models and optimizers.

        Save it beside every worker's own ``model.state_dict()`` and ``optimizer.state_dict()``: inside a round, workers
        differ.

        Returns:
            Numbers and tensors, the same on every process but for the losses reported since the last sync, and for
            ``residuals``, what this process's workers still owe to compressed syncs, and ``snapshots``, what they had when
            syncs that are under way started; both by worker: each process saves and loads its own, or a dictionary with
            those of all. The tensors are not copies. Waits for exchanges that are under way, and lets none land.

        Raises:
            SyncError: If an exchange that is under way fails.
            StateError: If some rows have stepped and others have not.
        """
        self.stepper.require_idle("state_dict()")
        numbers = {"version": _STATE_VERSION, "num_workers": self.num_workers}
        return numbers | self.stepper.state() | self._synchronizer.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; load the models and optimizers as well.

        Args:
            state: What `state_dict` returned, for the same number of workers and the same options.

        Raises:
            ArgumentError: If the state does not fit.
        """
        self.stepper.require_idle("load_state_dict()")
        with construction.reading(state, version=_STATE_VERSION, num_workers=self.num_workers):
            self._synchronizer.load(state)
            self.stepper.load(state)

    def __reduce__(self) -> NoReturn:
        raise StateError(
            "LocalSGD cannot be copied or pickled; save state_dict(), and construct it anew around a new model."
        )
