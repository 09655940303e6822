"""The same run in small: a recipe cut down so that a laptop, or a test, can go through it."""

from dataclasses import replace
from typing import Literal, get_args

from localsgd._checks import require_choice
from localsgd.lab.config import RunConfig
from localsgd.lab.models import MODELS
from localsgd.lab.sections import DataConfig, OptimizerConfig

__all__ = ["SCALES", "Scale", "scaled"]

Scale = Literal["smoke", "small", "full"]
SCALES: tuple[str, ...] = get_args(Scale)
"""Does it run at all; does it do something sensible on a CPU; the recipe as it is."""

# Training and test samples of the small scale, tokens for text; a convex problem and the digits are small as they are.
_SMALL = {"images": (5_000, 2_000), "text": (200_000, 50_000), "features": (None, None)}
_SMALL_ALREADY = {"digits"}
_SMALL_SHARE = 10
_SMALL_BATCH_SHARE = 4
_SMOKE_WORKERS, _SMOKE_BATCH, _SMOKE_STEPS, _SMOKE_CONTEXT = 2, 4, 3, 5


def scaled(config: RunConfig, scale: Scale) -> RunConfig:
    """Cut a recipe down.

    ``small`` keeps the workers and the algorithm, and takes a tenth of the epochs, a quarter of the batch at a quarter of
    the rate, and few samples. ``smoke`` takes two workers through two epochs of three steps, at a rate that goes with their
    batch.

    Args:
        config: The recipe's.
        scale: How far.

    Returns:
        What to run; numbers from it are not the paper's.

    Raises:
        ArgumentError: If the scale is not known.

    Example:
        >>> from localsgd.lab.recipes import recipe
        >>> small = scaled(recipe("cifar10-resnet20"), "small")
        >>> small.workers, small.batch_size, small.epochs, small.data.train_limit, small.optimizer.learning_rate
        (16, 32, 30.0, 5000, 0.05)
    """
    require_choice("scale", scale, SCALES)
    if scale == "full":
        return config
    return _small(config) if scale == "small" else _smoke(config)


def _small(config: RunConfig) -> RunConfig:
    is_small = config.data.name in _SMALL_ALREADY
    train, test = (None, None) if is_small else _SMALL[MODELS[config.model.name].reads]
    batch_size = max(1, config.batch_size // _SMALL_BATCH_SHARE)
    optimizer = _at_batch(config, batch_size, warmup_epochs=config.optimizer.warmup_epochs / _SMALL_SHARE)
    return replace(
        config,
        data=_limited(config.data, train, test),
        optimizer=optimizer,
        batch_size=batch_size,
        epochs=max(2.0, config.epochs / _SMALL_SHARE),
        evaluate_every_epochs=None if config.evaluate_every_epochs is None else max(1, config.evaluate_every_epochs),
    )


def _smoke(config: RunConfig) -> RunConfig:
    reads = MODELS[config.model.name].reads
    data = config.data if config.data.context is None else replace(config.data, context=_SMOKE_CONTEXT)
    in_a_sample = 1 if data.context is None else data.context
    train = _SMOKE_WORKERS * _SMOKE_BATCH * (_SMOKE_STEPS * in_a_sample + (in_a_sample > 1))
    test = train if reads == "text" else 3 * _SMOKE_BATCH
    return replace(
        config,
        data=_limited(data, train, None if reads == "features" else test),
        optimizer=_at_batch(config, _SMOKE_BATCH, warmup_epochs=0.0),
        workers=_SMOKE_WORKERS,
        batch_size=_SMOKE_BATCH,
        period=min(config.period, 2),
        block_size=None if config.block_size is None else 1,
        epochs=2.0,
        evaluate_every_epochs=1,
        evaluation_batch_size=min(config.evaluation_batch_size, _SMOKE_BATCH),
        reestimate_batches=None if config.reestimate_batches is None else 1,
    )


def _at_batch(config: RunConfig, batch_size: int, *, warmup_epochs: float) -> OptimizerConfig:
    """Scale the rate as the batch."""
    rate = config.optimizer.learning_rate * batch_size / config.batch_size
    return replace(config.optimizer, learning_rate=rate, warmup_epochs=warmup_epochs)


def _limited(data: DataConfig, train: int | None, test: int | None) -> DataConfig:
    """Keep what is smaller already."""
    kept = [
        limit if present is None else present if limit is None else min(limit, present)
        for limit, present in ((train, data.train_limit), (test, data.test_limit))
    ]
    return replace(data, train_limit=kept[0], test_limit=kept[1])
