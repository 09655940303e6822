"""What a run will do, worked out before it starts: steps, syncs, learning rates, moments of evaluation."""

import math
from dataclasses import dataclass, replace

from localsgd._checks import require
from localsgd.errors import ArgumentError
from localsgd.lab.algorithms import StepRates, find_switch_step, make_growth, make_schedule, make_topology
from localsgd.lab.config import RunConfig
from localsgd.lab.data import SampleStream
from localsgd.lab.optimizers import make_compressor
from localsgd.lab.sections import OptimizerConfig
from localsgd.late.overlap import find_overlap, require_overlap
from localsgd.optim import LargeBatchSchedule
from localsgd.schedules import BatchGrowth, Decreasing, Hierarchical, Schedule, WatchingSchedule, sync_steps
from localsgd.topology import Topology

__all__ = ["RunPlan", "make_plan"]

_NEGLIGIBLE_SHARE = 0.05
"""Share of the batches that may be left over at the end without a warning."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run will do; a pure function of its configuration and of the number of training samples."""

    config: RunConfig
    """The run."""

    num_samples: int
    """Size of the training set, after ``data.train_limit``."""

    num_steps: int
    """Optimizer steps that each worker takes: whole ones only, ``floor(epochs * num_samples / (workers * batch_size))``
    unless batches grow."""

    first_step: int = 0
    """Steps that were taken before this process started: 0, unless the run is resumed."""

    steps_per_epoch: float
    """Steps in one pass over the training set, seldom a whole number."""

    switch_step: int | None
    """Last step before the switch of ``post-local`` or ``growing-minibatch``; ``None`` for the other algorithms."""

    growth: BatchGrowth | None = None
    """How many batches make a step; ``None`` for one."""

    schedule: Schedule
    """When the workers sync."""

    topology: Topology
    """Who averages with whom."""

    num_syncs: int | None
    """Syncs in the whole run at any level, the flush of an unfinished last round included; ``None`` if the algorithm decides
    while it runs, or if fragments sync in turn."""

    learning_rates: LargeBatchSchedule
    """The learning rate over the run."""

    warnings: tuple[str, ...] = ()
    """What is not as the configuration asked for."""

    def learning_rate(self, step: int) -> float:
        """Give the learning rate of a step.

        Args:
            step: Steps taken before it, >= 0.

        Returns:
            The rate, > 0.
        """
        rate = self.learning_rates.rate(self.epoch(step))
        return rate if self.growth is None else rate * self.growth.rate_scale(self.num_batches(step))

    def epoch(self, step: int) -> float:
        """Tell how far the run is after some steps, in passes over the training set.

        Args:
            step: Steps taken, >= 0.

        Returns:
            Samples seen by all workers divided by ``num_samples``.
        """
        return _make_stream(self.config, self.num_samples).epoch_of(self.num_batches(step))

    def num_batches(self, step: int) -> int:
        """Count the batches of one worker in its first steps.

        Args:
            step: Steps taken, >= 0.

        Returns:
            As many, or more after batches have grown.
        """
        return _batches_of(self.growth, step)

    def batches(self, step: int) -> range:
        """Tell which batches make a step.

        Args:
            step: Steps taken before it, >= 0.

        Returns:
            Their numbers in each worker's stream, from 0.
        """
        return range(self.num_batches(step), self.num_batches(step + 1))

    def steps_after_epochs(self, every: int | None) -> frozenset[int]:
        """List the moments at which whole numbers of epochs have just been completed.

        Args:
            every: Epochs between two of these moments, >= 1; ``None`` for the end only.

        Returns:
            Counts of steps taken, in [1, ``num_steps``]; the end of the run is always among them.
        """
        stream = _make_stream(self.config, self.num_samples)
        epochs = range(every, math.ceil(self.config.epochs) + 1, every) if every else ()
        steps = (_steps_of(self.growth, stream.step_at(epoch), rounds_up=True) for epoch in epochs)
        return frozenset({*(min(step, self.num_steps) for step in steps), self.num_steps})

    def resumed(self, first_step: int) -> "RunPlan":
        """Say from where the run goes on.

        Args:
            first_step: Steps taken so far.

        Returns:
            The same plan but for ``first_step``.
        """
        return replace(self, first_step=first_step)


def make_plan(config: RunConfig, *, num_samples: int) -> RunPlan:
    """Work out what a run will do.

    Args:
        config: The run.
        num_samples: Size of the training set, after ``data.train_limit``.

    Returns:
        The plan.

    Raises:
        ArgumentError: If the run is shorter than one step, or has no room for the switch of post-local SGD, or for one
            step after that of growing batches; or if syncs cannot overlap, or go by fragments, as they are to.
    """
    stream = _make_stream(config, num_samples)
    num_batches = stream.num_steps(config.epochs)
    rates, warnings = _learning_rates(config.optimizer, workers=config.workers, epochs=config.epochs)
    decay = rates.first_decay_epoch
    switch_step = find_switch_step(
        config, num_steps=num_batches, first_decay_step=None if decay is None else stream.step_at(decay)
    )
    growth = make_growth(config, switch_step)
    num_steps = _steps_of(growth, num_batches)
    warnings += _check_left_over(growth, num_steps, num_batches)
    by_step = StepRates(rates=rates, samples_per_step=stream.samples_per_step, num_samples=num_samples)
    schedule = make_schedule(config, switch_step, learning_rates=by_step, num_steps=num_steps)
    topology = make_topology(config)
    warnings += _check_exchange(config, schedule)
    return RunPlan(
        config=config,
        num_samples=num_samples,
        num_steps=num_steps,
        steps_per_epoch=num_samples / stream.samples_per_step,
        switch_step=switch_step,
        growth=growth,
        schedule=schedule,
        topology=topology,
        num_syncs=_count_syncs(schedule, topology, num_steps) if config.fragments == 1 else None,
        learning_rates=rates,
        warnings=warnings,
    )


def _steps_of(growth: BatchGrowth | None, num_batches: int, *, rounds_up: bool = False) -> int:
    """Count the steps that some batches make; what is left over makes none, or one more."""
    if growth is None:
        return num_batches
    steps = growth.num_steps(num_batches)
    return steps + (rounds_up and _batches_of(growth, steps) < num_batches)


def _batches_of(growth: BatchGrowth | None, num_steps: int) -> int:
    """Count the batches that make some steps."""
    if growth is None:
        return num_steps
    before = min(num_steps, growth.switch_step)
    return before + (num_steps - before) * growth.factor


def _check_left_over(growth: BatchGrowth | None, num_steps: int, num_batches: int) -> tuple[str, ...]:
    """Refuse a growth that never comes to a step; warn of many batches that are left over at the end."""
    if growth is None:
        return ()
    room = num_batches - growth.switch_step
    fix = f"use {room} or less" if room >= 2 else "set switch_at to an earlier switch"
    require(
        num_steps > growth.switch_step,
        f"schedule.factor={growth.factor} must be <= {room}, the batches of each worker after the switch at batch "
        f"{growth.switch_step} of {num_batches}, or these make no step; {fix}, or train longer.",
    )
    num_unused = num_batches - _batches_of(growth, num_steps)
    if num_unused <= _NEGLIGIBLE_SHARE * num_batches:
        return ()
    message = (
        f"schedule.factor={growth.factor} makes whole steps of {room - num_unused} of the {room} batches of each worker "
        f"after the switch: the last {num_unused} of the run's {num_batches} are left out."
    )
    return (message,)


def _check_exchange(config: RunConfig, schedule: Schedule) -> tuple[str, ...]:
    """Refuse what `LocalSGD` would refuse when a run begins; warn of what has no effect."""
    fields = {"overlap_steps": config.overlap_steps, "fragments": config.fragments}
    if config.only_averages_gradients:
        changed = [f"{name}={value}" for name, value in fields.items() if value != getattr(RunConfig, name)]
        changed += [f"compression.name={config.compression.name}"] if config.compression.name != "none" else []
        what = (
            f"{', '.join(changed)}: no effect with algorithm={config.algorithm}, which sends gradients whole, at once."
        )
        return (what,) if changed else ()
    options = fields | {"overlap_mixing": config.overlap_mixing, "compression": make_compressor(config.compression)}
    last = schedule.schedules[-1] if isinstance(schedule, Hierarchical) else schedule
    try:
        require_overlap(options | {"optimizer_state": "keep", "non_finite": "raise"})
        find_overlap(options, last)
    except ArgumentError as error:
        raise ArgumentError(f"algorithm={config.algorithm}: {error}") from None
    return ()


def _count_syncs(schedule: Schedule, topology: Topology, num_steps: int) -> int | None:
    if isinstance(schedule, Decreasing | WatchingSchedule):
        return None
    steps = list(sync_steps(schedule, num_steps))
    is_flushed = bool(steps) and steps[-1] == num_steps
    if is_flushed and isinstance(schedule, Hierarchical):
        is_flushed = schedule.level(num_steps) == topology.num_levels
    return len(steps) + (not is_flushed)


def _make_stream(config: RunConfig, num_samples: int) -> SampleStream:
    """Count steps and epochs: every distribution of the data counts them alike, and this one needs no labels."""
    return SampleStream(num_samples, num_workers=config.workers, batch_size=config.batch_size, seed=config.seed)


def _learning_rates(
    optimizer: OptimizerConfig, *, workers: int, epochs: float
) -> tuple[LargeBatchSchedule, tuple[str, ...]]:
    """Make the learning rates; a warm-up that is cut short by the first decay, or by the end, stays as steep as it was."""
    room = epochs * (optimizer.milestones[0] if optimizer.milestones else 1.0)
    linear_scale = float(workers) if optimizer.scale_by_workers else 1.0
    full_scale = linear_scale if optimizer.scale is None else optimizer.scale
    share = min(1.0, room / optimizer.warmup_epochs) if optimizer.warmup_epochs else 1.0
    rates = LargeBatchSchedule(
        base_lr=optimizer.learning_rate,
        num_epochs=epochs,
        scale=1 + (full_scale - 1) * share,
        warmup_epochs=min(optimizer.warmup_epochs, room),
        milestones=optimizer.milestones,
        decay=optimizer.decay,
    )
    if share == 1 or full_scale == 1:
        return rates, ()
    verb = "rises" if full_scale > 1 else "falls"
    message = (
        f"optimizer.warmup_epochs={optimizer.warmup_epochs:g} is longer than the {room:g} epoch{'s' if room != 1 else ''} "
        f"{'before the first decay' if optimizer.milestones else 'of the run'}: the learning rate {verb} to "
        f"{rates.base_lr * rates.scale:g} only, and not to {rates.base_lr * full_scale:g}."
    )
    return rates, (message,)
