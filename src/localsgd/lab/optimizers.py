"""Optimizers and compressors by name: what workers step with, how they tell each other, what becomes of their mean."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from localsgd.compression import BFloat16, Compressor, ErrorFeedback, Float16, Int4, Int8, Sign, TopK
from localsgd.lab.sections import CompressionConfig, OptimizerConfig, OuterConfig
from localsgd.optim import LARS, decay_groups, lars_groups
from localsgd.outer import Averaging, BlockMomentum, Nesterov, OuterOptimizer, SlowMo

__all__ = ["make_compressor", "make_optimizer", "make_outer"]

_TRUST_COEFFICIENT = 0.02
_BLOCK_MOMENTUM = 0.3
_SECOND_MOMENTUM = 0.999
_FRACTION = 0.01


def make_optimizer(model: nn.Module, settings: OptimizerConfig, *, learning_rate: float) -> Optimizer:
    """Make the optimizer of one worker.

    Args:
        model: The worker's model, on its device.
        settings: Which optimizer.
        learning_rate: Rate of the first step, > 0.

    Returns:
        SGD, LARS or AdamW over all trainable parameters.

    Raises:
        ArgumentError: If LARS is to adapt a tensor that is all zeros.
    """
    momentum, nesterov, fused = settings.momentum, settings.nesterov, settings.fused
    if settings.name == "sgd":
        groups = decay_groups(model, settings.weight_decay)
        return SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov, fused=fused)
    if settings.name == "adamw":
        groups = decay_groups(model, settings.weight_decay)
        return AdamW(groups, lr=learning_rate, betas=(momentum, _SECOND_MOMENTUM), fused=fused)
    trust = _TRUST_COEFFICIENT if settings.trust_coefficient is None else settings.trust_coefficient
    return LARS(
        lars_groups(model, settings.weight_decay),
        lr=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        trust_coefficient=trust,
    )


def make_outer(settings: OuterConfig) -> OuterOptimizer:
    """Make the outer optimizer of a run.

    Args:
        settings: Which one; what is None there takes its default.

    Returns:
        The outer optimizer.

    Source:
        The default of block momentum is the best of Lin et al. 2020 (arXiv:1808.07217), table 6; those of SlowMo and
        Nesterov are their authors'.

    Example:
        >>> make_outer(OuterConfig(name="slowmo", momentum=0.7))
        SlowMo(lr=1.0, momentum=0.7)
        >>> make_outer(OuterConfig(name="nesterov"))
        Nesterov(lr=0.7, momentum=0.9)
    """
    given = {name: value for name in ("momentum", "lr") if (value := getattr(settings, name)) is not None}
    if settings.name == "momentum":
        return BlockMomentum(given.get("momentum", _BLOCK_MOMENTUM))
    if settings.name == "slowmo":
        return SlowMo(**given)
    if settings.name == "nesterov":
        return Nesterov(**given)
    return Averaging()


def make_compressor(settings: CompressionConfig) -> Compressor | None:
    """Make the compressor of a run.

    Args:
        settings: Which one; what is None there takes its default.

    Returns:
        The compressor; ``None`` for none.

    Example:
        >>> make_compressor(CompressionConfig(name="sign"))
        ErrorFeedback(inner=Sign(block=256))
        >>> make_compressor(CompressionConfig(name="bf16"))
        BFloat16()
    """
    if settings.name == "none":
        return None
    fraction = _FRACTION if settings.fraction is None else settings.fraction
    compressors: dict[str, Compressor] = {
        "fp16": Float16(),
        "bf16": BFloat16(),
        "int8": Int8(),
        "int4": Int4(),
        "sign": Sign(),
        "top-k": TopK(fraction),
    }
    remembers = settings.name in ("sign", "top-k") if settings.error_feedback is None else settings.error_feedback
    return ErrorFeedback(compressors[settings.name]) if remembers else compressors[settings.name]
