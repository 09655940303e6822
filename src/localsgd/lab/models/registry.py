"""The models that exist, by name, built with weights that depend on a seed alone."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from localsgd._checks import require, require_choice
from localsgd.lab.data.seeds import derive_seed
from localsgd.lab.models.cnn import digits_cnn
from localsgd.lab.models.densenet import densenet
from localsgd.lab.models.inputs import Inputs, Kind
from localsgd.lab.models.logistic import LinearScorer
from localsgd.lab.models.lstm import LSTMLanguageModel
from localsgd.lab.models.mlp import digits_mlp
from localsgd.lab.models.resnet import resnet
from localsgd.lab.models.resnet_imagenet import resnet_imagenet
from localsgd.lab.models.transformer import Transformer
from localsgd.lab.models.wide_resnet import wide_resnet

__all__ = ["MODELS", "ModelSpec", "build"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model that can be built by name."""

    title: str
    """What it is, in a line."""

    reads: Kind
    """The kind of data it is made for."""

    make: Callable[..., nn.Module]
    """Makes it. Takes the fields of the data's ``Inputs`` as keyword arguments, and draws the initial weights from
    torch's global generator."""

    has_convolutions: bool = False
    """Whether it has convolutions over images, which care about the order in which channels lie in memory."""

    suits_bfloat16: bool = False
    """Whether networks of its kind were measured to learn as well in bfloat16, faster: see
    ``benchmarks/precision_accuracy.py``."""


def build(name: str, *, seed: int, inputs: Inputs) -> nn.Module:
    """Build a model whose initial weights are a function of the seed, and of nothing else.

    Torch's global generators are left as they were.

    Args:
        name: A name in ``MODELS``.
        seed: Seed of the run.
        inputs: What the data hold.

    Returns:
        The model, on the CPU.

    Raises:
        ArgumentError: If the name is not known, or the model cannot read such data.

    Example:
        >>> from localsgd.lab.models.inputs import ImageInputs
        >>> model = build("resnet20", seed=1, inputs=ImageInputs(num_classes=10, image_shape=(3, 32, 32)))
        >>> sum(parameter.numel() for parameter in model.parameters())
        272474
    """
    require_choice("model", name, MODELS)
    spec = MODELS[name]
    fitting = ", ".join(sorted(other for other, found in MODELS.items() if found.reads == inputs.kind))
    require(
        spec.reads == inputs.kind,
        f"model={name!r} reads {spec.reads}, but the data hold {inputs.kind}; take one of: {fitting}.",
    )
    fields = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    # Layers draw from the global generator as they are made. Only the CPU's is forked and seeded: torch.manual_seed
    # would also reseed every accelerator, and forking those would wake them up.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derive_seed(seed, "model"))
        return spec.make(**fields)


def _of_channels(
    title: str, make: Callable[..., nn.Module], *, smallest_side: int = 1, suits_bfloat16: bool = True
) -> ModelSpec:
    """Describe a network that takes images of any size, as long as it is told their channels."""

    def adapted(*, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        channels, height, width = image_shape
        require(
            min(height, width) >= smallest_side,
            f"images of {height} x {width} must have sides >= {smallest_side}: this network halves them twice; "
            "use digits-cnn.",
        )
        return make(num_classes=num_classes, in_channels=channels)

    return ModelSpec(title=title, reads="images", make=adapted, has_convolutions=True, suits_bfloat16=suits_bfloat16)


def _patch_resnet(depth: int) -> ModelSpec:
    def make(*, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        channels, height, width = image_shape
        require(
            height % 2 == 0 and width % 2 == 0,
            f"images of {height} x {width} must have even sides for a patch stem; use resnet{depth}.",
        )
        return resnet(depth, num_classes=num_classes, in_channels=channels, stem="patch")

    title = f"ResNet-{depth} for small images behind 2 x 2 patches"
    return ModelSpec(title=title, reads="images", make=make, has_convolutions=True, suits_bfloat16=True)


def _lstm(title: str, **sizes: Any) -> ModelSpec:
    def make(*, vocabulary_size: int) -> nn.Module:
        return LSTMLanguageModel(vocabulary_size, **sizes)

    return ModelSpec(title=title, reads="text", make=make)


def _transformer(title: str, **sizes: Any) -> ModelSpec:
    def make(*, vocabulary_size: int) -> nn.Module:
        return Transformer(vocabulary_size, **sizes)

    return ModelSpec(title=title, reads="text", make=make)


def _logistic(*, num_features: int) -> nn.Module:
    return LinearScorer(num_features)


_IMAGE_MODELS = {
    "digits-mlp": ModelSpec(title="one hidden layer of 128", reads="images", make=digits_mlp),
    "digits-cnn": _of_channels("two convolutions with BatchNorm", digits_cnn, suits_bfloat16=False),
    **{f"resnet{d}": _of_channels(f"ResNet-{d} for small images", partial(resnet, d)) for d in (20, 32, 44, 56, 110)},
    **{f"resnet{d}-patch": _patch_resnet(d) for d in (20, 32, 44, 56, 110)},
    **{f"resnet{d}": _of_channels(f"ResNet-{d} for ImageNet", partial(resnet_imagenet, d)) for d in (18, 34, 50, 101)},
    "densenet22-12": _of_channels("DenseNet of depth 22, growth 12", partial(densenet, 22), smallest_side=4),
    "densenet40-12": _of_channels("DenseNet of depth 40, growth 12", partial(densenet, 40), smallest_side=4),
    "wrn16-2": _of_channels("wide ResNet of depth 16, factor 2", partial(wide_resnet, 16, widen_factor=2)),
    "wrn28-10": _of_channels("wide ResNet of depth 28, factor 10", partial(wide_resnet, 28, widen_factor=10)),
}
_TEXT_MODELS = {
    "lstm64": _lstm("LSTM of two layers of 64, dropout 0.2", hidden_size=64, num_layers=2, dropout=0.2),
    "lstm650": _lstm("LSTM of three layers of 650, dropout 0.4", hidden_size=650, num_layers=3, dropout=0.4),
    "transformer-tiny": _transformer(
        "transformer of two layers of 64, context 128", width=64, num_layers=2, num_heads=4, context=128
    ),
    "transformer-small": _transformer(
        "transformer of four layers of 256, context 256", width=256, num_layers=4, num_heads=4, context=256
    ),
}
_FEATURE_MODELS = {
    "logistic": ModelSpec(title="one weight a feature, no bias, from zero", reads="features", make=_logistic)
}

MODELS: Mapping[str, ModelSpec] = MappingProxyType({**_IMAGE_MODELS, **_TEXT_MODELS, **_FEATURE_MODELS})
"""Every known model by its name; those on ``-patch`` have a stem of 2 x 2 patches and a quarter of the work."""
