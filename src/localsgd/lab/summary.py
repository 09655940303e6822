"""The summary of a finished run: what was asked, what came out, what it cost, and on what it ran."""

import platform
from collections.abc import Mapping
from importlib import metadata

import torch

from localsgd.compression import Compressor
from localsgd.lab.optimizers import make_compressor, make_outer
from localsgd.lab.plan import RunPlan
from localsgd.lab.stopwatch import Stopwatch
from localsgd.lab.traffic import split_by_blocks
from localsgd.reports import Totals

__all__ = ["summarise"]


def summarise(
    plan: RunPlan,
    scores: Mapping[str, object],
    totals: Totals,
    *,
    watch: Stopwatch,
    num_parameters: int,
    num_processes: int,
    device: torch.device,
    engine: str,
) -> dict[str, object]:
    """Put the summary of a run together.

    Args:
        plan: What was done.
        scores: Losses and accuracies by name.
        totals: Syncs.
        watch: The time it took.
        num_parameters: Of one model.
        num_processes: How many processes the workers were spread over.
        device: What they computed on.
        engine: Name of the engine that took the steps.

    Returns:
        Ready for JSON. ``schedule`` has the settings that were given, none for most algorithms. ``peak_learning_rate`` is
        the one after the warm-up. ``train_loss`` is the mean over the last
        epoch, or the part of it that the run has. ``test_loss`` and ``test_accuracy`` are those of the consensus
        model: the mean of all workers' weights and BatchNorm statistics. ``test_accuracy_local_mean`` is the mean
        accuracy of the workers' own models before the last flush, which is what Lin et al. 2020 (arXiv:1808.07217)
        report; ``test_accuracy_reestimated`` that of the consensus weights with BatchNorm statistics re-estimated on
        training batches, ``None`` unless asked for. ``bytes_sent_per_worker`` is what a worker sends when each is a
        process of its own in one ring, or in rings by level; ``bytes_by_level`` are its parts, innermost level first,
        and ``bytes_inside_blocks`` and ``bytes_between_blocks`` those of `localsgd.lab.traffic.split_by_blocks`, ``None``
        without a ``block_size``. ``wire_bytes`` is what process 0 really sent. ``wall_seconds`` is everything but
        loading the data; ``seconds_training`` leaves out evaluation and checkpoints, and ``samples_per_second`` refers
        to it; ``seconds_syncing`` is a part of it.
    """
    config = plan.config
    samples = plan.num_batches(plan.num_steps) * config.workers * config.batch_size
    seconds_training = watch.seconds_training
    inside, between = split_by_blocks(config, totals) or (None, None)
    return {
        "recipe": config.recipe,
        "algorithm": config.algorithm,
        "workers": config.workers,
        "batch_size": config.batch_size,
        "period": 1 if config.algorithm in ("minibatch", "growing-minibatch") else config.period,
        "block_size": config.block_size,
        "block_period": config.block_period if config.algorithm == "hierarchical" else None,
        "switch_step": plan.switch_step,
        "schedule": {
            name: value for name, value in vars(config.schedule).items() if value is not None and value is not False
        },
        "epochs": config.epochs,
        "peak_learning_rate": plan.learning_rates.base_lr * plan.learning_rates.scale,
        "seed": config.seed,
        "optimizer": config.optimizer.name,
        "outer": {"name": config.outer.name, **vars(make_outer(config.outer))},
        "compression": None if config.only_averages_gradients else _name(make_compressor(config.compression)),
        "overlap_steps": 0 if config.only_averages_gradients else config.overlap_steps,
        "overlap_mixing": None if config.only_averages_gradients else config.overlap_mixing,
        "fragments": 1 if config.only_averages_gradients else config.fragments,
        "distribution": config.data.distribution,
        "train_samples": plan.num_samples,
        "num_parameters": num_parameters,
        "samples": samples,
        "steps": plan.num_steps,
        "rounds": totals.rounds,
        "bytes_sent_per_worker": totals.bytes_sent,
        "bytes_by_level": list(totals.bytes_by_level),
        "bytes_inside_blocks": inside,
        "bytes_between_blocks": between,
        "wire_bytes": totals.wire_bytes,
        **scores,
        "wall_seconds": watch.seconds,
        "seconds_training": seconds_training,
        "seconds_syncing": totals.seconds,
        "samples_per_second": samples / seconds_training,
        "device": device.type,
        "precision": config.precision,
        "channels_last": config.channels_last,
        "engine": engine,
        "processes": num_processes,
        "threads": torch.get_num_threads(),
        "versions": {
            "localsgd": metadata.version("localsgd"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _name(compressor: Compressor | None) -> str | None:
    return None if compressor is None else repr(compressor)
