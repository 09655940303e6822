"""Recipes: whole configurations by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from localsgd._checks import require_choice
from localsgd.lab.config import RunConfig
from localsgd.lab.sections import DataConfig, ModelConfig, OptimizerConfig

__all__ = ["RECIPES", "recipe"]

_DEPTHS = (20, 32, 44, 56, 110)


def recipe(name: str) -> RunConfig:
    """Look up a recipe.

    Args:
        name: Its name.

    Returns:
        A whole configuration, to be used as it is or with some fields overridden.

    Raises:
        ArgumentError: If there is no such recipe; the message names the nearest one.

    Example:
        >>> recipe("cifar10-resnet20").overridden(["epochs=2", "workers=4"]).workers
        4
    """
    require_choice("recipe", name, RECIPES)
    return RECIPES[name]()


def _digits_mlp() -> RunConfig:
    """The demo: seconds on a CPU. A rate at which all algorithms train well, by their means over five seeds."""
    return RunConfig(
        recipe="digits-mlp",
        data=DataConfig(name="digits"),
        model=ModelConfig(name="digits-mlp"),
        optimizer=OptimizerConfig(learning_rate=0.005, weight_decay=1e-4, warmup_epochs=2.0),
        workers=16,
        batch_size=8,
        period=16,
        epochs=40,
        evaluate_every_epochs=5,
    )


def _digits_cnn() -> RunConfig:
    """A model with BatchNorm that still trains in a minute on a CPU."""
    return RunConfig(
        recipe="digits-cnn",
        data=DataConfig(name="digits"),
        model=ModelConfig(name="digits-cnn"),
        optimizer=OptimizerConfig(learning_rate=0.02, weight_decay=1e-4, warmup_epochs=2.0),
        workers=16,
        batch_size=8,
        period=8,
        epochs=40,
        evaluate_every_epochs=5,
        reestimate_batches=20,
    )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What differs among the paper's networks for small images."""

    model: str
    """Its name."""

    learning_rate: float
    """Rate of one worker."""

    weight_decay: float
    """None on BatchNorm."""

    epochs: int
    """Length of the run."""


_RESNET20 = _Images(model="resnet20", learning_rate=0.2, weight_decay=1e-4, epochs=300)
_DENSENET40 = _Images(model="densenet40-12", learning_rate=0.2, weight_decay=1e-4, epochs=300)
_WRN28 = _Images(model="wrn28-10", learning_rate=0.1, weight_decay=5e-4, epochs=250)


def _small_images(recipe: str, data: str, network: _Images) -> RunConfig:
    """The setting of Lin et al. 2020 (arXiv:1808.07217) for CIFAR: rates of a single GPU at a batch of 128."""
    return RunConfig(
        recipe=recipe,
        data=DataConfig(name=data),
        model=ModelConfig(name=network.model),
        optimizer=OptimizerConfig(
            learning_rate=network.learning_rate, weight_decay=network.weight_decay, warmup_epochs=5.0
        ),
        workers=16,
        batch_size=128,
        period=16,
        epochs=network.epochs,
        reestimate_batches=20,
    )


def _imagenet_resnet50() -> RunConfig:
    """The setting of Lin et al. 2020 for ImageNet: 0.1 for 256 samples, scaled by the global batch."""
    return RunConfig(
        recipe="imagenet-resnet50",
        data=DataConfig(name="imagenet"),
        model=ModelConfig(name="resnet50"),
        optimizer=OptimizerConfig(
            learning_rate=0.05, weight_decay=1e-4, warmup_epochs=5.0, milestones=(30 / 90, 60 / 90, 80 / 90)
        ),
        workers=32,
        batch_size=128,
        period=8,
        epochs=90,
        checkpoint_every_epochs=1,
    )


def _wikitext2_lstm() -> RunConfig:
    """The setting of Lin et al. 2020 for WikiText-2. The rate is that of the authors' ChocoSGD code: 2.5 for 24 samples."""
    return RunConfig(
        recipe="wikitext2-lstm",
        data=DataConfig(name="wikitext2", context=30),
        model=ModelConfig(name="lstm650"),
        optimizer=OptimizerConfig(
            learning_rate=2.5 * 64 / 24,
            momentum=0.0,
            nesterov=False,
            weight_decay=0.0,
            warmup_epochs=5.0,
            clip_norm=0.4,
        ),
        workers=16,
        batch_size=64,
        period=8,
        epochs=120,
        evaluation_batch_size=10,
        evaluate_every_epochs=5,
    )


def _w8a_logistic() -> RunConfig:
    """The convex problem of Lin et al. 2020, appendix B.2, at the largest of its rates; `localsgd convex` tries others."""
    return RunConfig(
        recipe="w8a-logistic",
        data=DataConfig(name="w8a"),
        model=ModelConfig(name="logistic"),
        optimizer=OptimizerConfig(
            learning_rate=32.0,
            scale_by_workers=False,
            momentum=0.0,
            nesterov=False,
            weight_decay=0.0,
            warmup_epochs=0.0,
        ),
        algorithm="local",
        workers=16,
        batch_size=16,
        period=8,
        epochs=10,
    )


def _tinyshakespeare_transformer() -> RunConfig:
    """A small transformer with AdamW, as local steps are used for language models since; not of the paper."""
    return RunConfig(
        recipe="tinyshakespeare-transformer",
        data=DataConfig(name="tinyshakespeare", context=64),
        model=ModelConfig(name="transformer-small"),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            scale_by_workers=False,
            nesterov=False,
            weight_decay=0.1,
            warmup_epochs=0.0,
        ),
        algorithm="local",
        workers=4,
        batch_size=8,
        period=16,
        epochs=3,
        evaluation_batch_size=50,
    )


def _cifar10_resnet20_patch() -> RunConfig:
    """A setting in which the paper's effect shows on a CPU: fewer images, less work for each, many epochs."""
    return RunConfig(
        recipe="cifar10-resnet20-patch",
        data=DataConfig(name="cifar10", train_limit=5000),
        model=ModelConfig(name="resnet20-patch"),
        optimizer=OptimizerConfig(learning_rate=0.05, weight_decay=5e-4, warmup_epochs=10.0),
        workers=16,
        batch_size=32,
        period=16,
        epochs=150,
        evaluate_every_epochs=10,
        reestimate_batches=20,
    )


RECIPES: Mapping[str, Callable[[], RunConfig]] = MappingProxyType(
    {
        "digits-mlp": _digits_mlp,
        "digits-cnn": _digits_cnn,
        **{
            f"cifar10-resnet{depth}": partial(
                _small_images, f"cifar10-resnet{depth}", "cifar10", replace(_RESNET20, model=f"resnet{depth}")
            )
            for depth in _DEPTHS
        },
        "cifar10-resnet20-patch": _cifar10_resnet20_patch,
        "cifar10-densenet40": partial(_small_images, "cifar10-densenet40", "cifar10", _DENSENET40),
        "cifar10-wrn28": partial(_small_images, "cifar10-wrn28", "cifar10", _WRN28),
        "cifar100-resnet20": partial(_small_images, "cifar100-resnet20", "cifar100", _RESNET20),
        "cifar100-densenet40": partial(_small_images, "cifar100-densenet40", "cifar100", _DENSENET40),
        "cifar100-wrn28": partial(_small_images, "cifar100-wrn28", "cifar100", _WRN28),
        "fashion-mnist-resnet20": partial(_small_images, "fashion-mnist-resnet20", "fashion-mnist", _RESNET20),
        "imagenet-resnet50": _imagenet_resnet50,
        "wikitext2-lstm": _wikitext2_lstm,
        "tinyshakespeare-transformer": _tinyshakespeare_transformer,
        "w8a-logistic": _w8a_logistic,
    }
)
"""Every recipe by its name; each call makes the configuration anew."""
