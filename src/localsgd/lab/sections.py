"""The sections of a configuration: data, model, the workers' optimizer, and the outer one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from localsgd._checks import (
    require,
    require_at_least,
    require_choice,
    require_fraction,
    require_positive,
)
from localsgd.lab.data import DATA_SETS, Distribution
from localsgd.lab.field_types import require_field_types
from localsgd.lab.models import MODELS
from localsgd.optim import GradientNoise, LargeBatchSchedule

__all__ = [
    "COMPRESSORS",
    "OUTER_OPTIMIZERS",
    "SCHEDULE_OWNERS",
    "CompressionConfig",
    "CompressionName",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "OuterConfig",
    "OuterName",
    "ScheduleConfig",
]

OuterName = Literal["averaging", "momentum", "slowmo", "nesterov"]
OUTER_OPTIMIZERS: tuple[str, ...] = get_args(OuterName)
"""The outer optimizers by name: the mean itself, block momentum (the paper's global momentum), SlowMo, DiLoCo's."""

CompressionName = Literal["none", "fp16", "bf16", "int8", "int4", "sign", "top-k"]
COMPRESSORS: tuple[str, ...] = get_args(CompressionName)
"""What makes payloads of the workers' changes, by name: nothing, 16 bits a value, 8, 4, 1, or the largest values only."""

SCHEDULE_OWNERS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("warmup_epochs", "warmup_shape"), "local")
    | dict.fromkeys(("lowest_loss", "interval_epochs", "shrink"), "adacomm")
    | dict.fromkeys(("factor", "scales_rate"), "growing-minibatch")
    | {"alpha": "qsr", "threshold": "drift-triggered"}
)
"""The one algorithm that each field of `ScheduleConfig` belongs to."""

_NEEDED = {"alpha": "0.0175", "threshold": "0.5", "factor": "8"}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which samples, and which worker trains on which of them."""

    name: str
    """Name of the data set."""

    train_limit: int | None = None
    """Number of training samples to keep, always the same ones; ``None`` for all."""

    test_limit: int | None = None
    """Number of test samples, likewise."""

    distribution: Distribution = "reshuffled"
    """How the samples are dealt out: split anew every epoch (``reshuffled``), split once (``fixed``), everybody draws from
    all (``replacement``), split once and skewed by label (``dirichlet``, needs ``alpha``), split once by label
    (``classes``, needs ``classes_per_worker``)."""

    alpha: float | None = None
    """How alike the workers' mixes of labels are in ``dirichlet``, > 0: 100 is nearly alike, 0.01 nearly one class each."""

    classes_per_worker: int | None = None
    """How many classes each worker has in ``classes``, >= 1."""

    context: int | None = None
    """Tokens of a window of text, >= 1, through which gradients flow back; text needs it, nothing else has it."""

    def __post_init__(self) -> None:
        prefix = "data."
        require_field_types(self, prefix=prefix)
        require_choice(f"{prefix}name", self.name, DATA_SETS)
        for name in ("train_limit", "test_limit"):
            if (limit := getattr(self, name)) is not None:
                require_at_least(f"{prefix}{name}", limit, 1, fix="use none to keep every sample")
        for name, owner, example in (("alpha", "dirichlet", "0.5"), ("classes_per_worker", "classes", "2")):
            _require_owned(
                f"{prefix}{name}",
                getattr(self, name),
                owners={owner},
                choice=(f"{prefix}distribution", self.distribution),
                example=example,
            )
        if self.alpha is not None:
            require_positive(f"{prefix}alpha", self.alpha, fix="use a small one for very different workers")
        if self.classes_per_worker is not None:
            require_at_least(f"{prefix}classes_per_worker", self.classes_per_worker, 1)
        if self.context is not None:
            require_at_least(f"{prefix}context", self.context, 1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network."""

    name: str
    """Name of the model."""

    def __post_init__(self) -> None:
        require_field_types(self, prefix="model.")
        require_choice("model.name", self.name, MODELS)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Each worker's own optimizer, and its learning rate over the run."""

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    """SGD; LARS: a rate adapted to each layer, which leaves biases and normalisation layers at the bare rate, without decay;
    or AdamW, whose first moment decays by ``momentum`` and whose second one by 0.999."""

    learning_rate: float
    """Rate that suits one worker's batch, > 0."""

    scale_by_workers: bool = True
    """Whether the rate is multiplied by the number of workers, and warmed up to that."""

    scale: float | None = None
    """Factor of the learning rate, > 0, reached by the warm-up; ``None`` for the number of workers when
    ``scale_by_workers``, else 1."""

    momentum: float = 0.9
    """Momentum of each worker's own optimizer, in [0, 1)."""

    nesterov: bool = True
    """Whether the momentum is Nesterov's."""

    weight_decay: float = 1e-4
    """Weight decay, >= 0; none on normalisation layers."""

    trust_coefficient: float | None = None
    """How far a step of LARS may go, as a share of a layer's length, > 0; ``None`` for 0.02, which goes with the rates
    of SGD."""

    clip_norm: float | None = None
    """Largest norm of the gradient that enters a step, > 0: of the worker's own gradient in a local step, of the mean
    gradient in a round of one step. ``None`` does not clip."""

    gradient_noise_variance: float | None = None
    """Variance of the noise that is added to each entry of each worker's gradient at the first step, > 0; ``None`` for no
    noise. The noises of the workers are independent: in a round of one step, the mean over K workers has a K-th of it."""

    gradient_noise_decay: float | None = None
    """How fast that variance falls, >= 0: it is divided by (1 + step) to this power. Needed if there is noise."""

    warmup_epochs: float = 5.0
    """Epochs in which the rate rises in a straight line from one worker's to the scaled one; 0 for none. In a run whose
    first milestone comes earlier (or its end, without one) the rate rises no faster, and so not as far; the record then
    has a warning."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    """Fractions of the run at which the rate is multiplied by ``decay``, increasing in (0, 1)."""

    decay: float = 0.1
    """Factor of each milestone, in (0, 1]."""

    fused: bool = True
    """Whether SGD and AdamW step all tensors in one computation, or one by one; LARS has its own way."""

    def __post_init__(self) -> None:
        prefix = "optimizer."
        require_field_types(self, prefix=prefix)
        require_positive(f"{prefix}learning_rate", self.learning_rate)
        self._check_scale(prefix)
        require_fraction(f"{prefix}momentum", self.momentum, fix="use 0 for none")
        require(
            self.momentum > 0 or not self.nesterov,
            f"{prefix}nesterov=True needs a momentum > 0; set {prefix}nesterov=false as well.",
        )
        require(
            self.name != "adamw" or not self.nesterov,
            f"{prefix}nesterov=True has no meaning with {prefix}name=adamw; set {prefix}nesterov=false as well.",
        )
        for name in ("weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value >= 0,
                f"{prefix}{name}={value!r} must be a finite number >= 0; use 0 for none.",
            )
        _require_owned(
            f"{prefix}trust_coefficient",
            self.trust_coefficient,
            owners={"lars"},
            choice=(f"{prefix}name", self.name),
        )
        for name, fix in (("trust_coefficient", "use none for the default"), ("clip_norm", "use none not to clip")):
            if (value := getattr(self, name)) is not None:
                require_positive(f"{prefix}{name}", value, fix=fix)
        require(
            self.fused or self.name != "lars",
            f"{prefix}fused=false has no meaning with {prefix}name=lars; set {prefix}fused=true.",
        )
        self._check_noise(prefix)
        LargeBatchSchedule(
            base_lr=self.learning_rate, num_epochs=1, warmup_epochs=0, milestones=self.milestones, decay=self.decay
        )

    @property
    def gradient_noise(self) -> GradientNoise | None:
        """What is added to each worker's gradients; ``None`` for nothing."""
        if self.gradient_noise_variance is None or self.gradient_noise_decay is None:
            return None
        return GradientNoise(initial_variance=self.gradient_noise_variance, decay=self.gradient_noise_decay)

    def _check_scale(self, prefix: str) -> None:
        if self.scale is None:
            return
        require_positive(f"{prefix}scale", self.scale, fix="use none for the number of workers")
        require(
            self.scale_by_workers,
            f"{prefix}scale={self.scale!r} has no meaning with {prefix}scale_by_workers=False; set "
            f"{prefix}scale_by_workers=true, or {prefix}scale=none.",
        )

    def _check_noise(self, prefix: str) -> None:
        variance, decay = self.gradient_noise_variance, self.gradient_noise_decay
        if variance is not None:
            require_positive(f"{prefix}gradient_noise_variance", variance, fix="use none for no noise")
        require(
            decay is None or (math.isfinite(decay) and decay >= 0),
            f"{prefix}gradient_noise_decay={decay!r} must be a finite number >= 0; use 0 for noise that stays as it is.",
        )
        require(
            (variance is None) == (decay is None),
            f"{prefix}gradient_noise_variance={variance} and {prefix}gradient_noise_decay={decay} must be given together; "
            "for example 1e-5 and 1, or none and none.",
        )


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """What becomes of the workers' mean at a sync of everyone."""

    name: OuterName = "averaging"
    """The mean itself, block momentum (the paper's global momentum), SlowMo, or DiLoCo's Nesterov momentum."""

    momentum: float | None = None
    """Share of the earlier outer steps that is carried, in [0, 1); ``None`` for 0.3 with ``momentum``, 0.5 with ``slowmo``,
    0.9 with ``nesterov``."""

    lr: float | None = None
    """Length of the outer step, > 0; ``None`` for 1 with ``slowmo``, 0.7 with ``nesterov``."""

    def __post_init__(self) -> None:
        prefix = "outer."
        require_field_types(self, prefix=prefix)
        choice = (f"{prefix}name", self.name)
        for name, owners in (("momentum", {"momentum", "slowmo", "nesterov"}), ("lr", {"slowmo", "nesterov"})):
            if getattr(self, name) is not None:
                _require_owned(f"{prefix}{name}", getattr(self, name), owners=owners, choice=choice)
        if self.momentum is not None:
            require_fraction(f"{prefix}momentum", self.momentum, fix=f"use {prefix}name=averaging for none")
        if self.lr is not None:
            require_positive(f"{prefix}lr", self.lr, fix="1 goes all the way to the mean")


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """In what workers tell each other how far they have moved, at a sync of everyone's parameters."""

    name: CompressionName = "none"
    """Nothing is compressed; 16 bits a value, float16 (``fp16``) or bfloat16 (``bf16``); 8 bits, or 4, and a scale for each
    block; one bit and such scales (``sign``); the largest values only (``top-k``)."""

    error_feedback: bool | None = None
    """Whether what payloads lose is added to the next change; ``None`` for yes with ``sign`` and ``top-k``, which need it,
    and no with the others."""

    fraction: float | None = None
    """Share of the values that ``top-k`` sends, in (0, 1]; ``None`` for 0.01."""

    def __post_init__(self) -> None:
        prefix = "compression."
        require_field_types(self, prefix=prefix)
        choice = (f"{prefix}name", self.name)
        _require_owned(f"{prefix}fraction", self.fraction, owners={"top-k"}, choice=choice)
        require(
            self.fraction is None or 0 < self.fraction <= 1,
            f"{prefix}fraction={self.fraction!r} must be in (0, 1]; 0.01 sends one value of a hundred.",
        )
        require(
            self.error_feedback is None or self.name != "none",
            f"{prefix}error_feedback={self.error_feedback} has no meaning with {prefix}name=none; set {prefix}name, or "
            f"{prefix}error_feedback=none.",
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What some algorithms need to know besides the period; each field belongs to one of them, see `SCHEDULE_OWNERS`."""

    warmup_epochs: float | None = None
    """Epochs in which the period of ``local`` grows from 1, > 0; ``None`` for the full period from the first step."""

    warmup_shape: Literal["linear", "exponential", "constant"] | None = None
    """How it grows: see `localsgd.Warmup`; ``None`` for ``exponential``, the paper's 1, 2, 4, 8."""

    alpha: float | None = None
    """Learning rate at which a round of ``qsr`` has a single step by its rule, > 0; ``qsr`` needs it."""

    lowest_loss: float | None = None
    """Training loss that ``adacomm`` tends to; ``None`` for 0."""

    interval_epochs: float | None = None
    """Epochs between two decisions of ``adacomm``, > 0; ``None`` decides at every sync."""

    shrink: float | None = None
    """What ``adacomm`` multiplies a period by that would not shrink by itself, in (0, 1); needs ``interval_epochs``.
    ``None`` lets it stay."""

    threshold: float | None = None
    """Drift at which ``drift-triggered`` syncs, > 0, which needs it."""

    factor: int | None = None
    """Batches that make one step of ``growing-minibatch`` after its switch, >= 2, which needs it."""

    scales_rate: bool = False
    """Whether the learning rate of ``growing-minibatch`` is multiplied by ``factor`` when the batch is."""

    def __post_init__(self) -> None:
        require_field_types(self, prefix="schedule.")

    def check(self, algorithm: str) -> None:
        """Refuse what an algorithm would ignore or cannot honour, and miss what it needs.

        Args:
            algorithm: Name of the algorithm.

        Raises:
            ArgumentError: If a field is given that is of another algorithm, one is missing, or a value is out of range.
        """
        prefix, choice = "schedule.", ("algorithm", algorithm)
        for name, owner in SCHEDULE_OWNERS.items():
            value, example = getattr(self, name), _NEEDED.get(name)
            _require_owned(f"{prefix}{name}", value, owners={owner}, choice=choice, example=example)
        self._check_values(prefix)
        for name, other, what in (
            ("shrink", "interval_epochs", "the time between two decisions, such as 1"),
            ("scales_rate", "factor", "by which the batch grows"),
            ("warmup_shape", "warmup_epochs", "the length of the warm-up"),
        ):
            require(
                getattr(self, name) in (None, False) or getattr(self, other) is not None,
                f"{prefix}{name}={_typed(getattr(self, name))} needs {prefix}{other}, {what}; give both.",
            )

    def _check_values(self, prefix: str) -> None:
        for name in ("warmup_epochs", "alpha", "interval_epochs", "shrink", "threshold"):
            if (value := getattr(self, name)) is not None:
                require_positive(f"{prefix}{name}", value, fix="use none to do without")
        require(
            self.lowest_loss is None or math.isfinite(self.lowest_loss),
            f"{prefix}lowest_loss={self.lowest_loss!r} must be a finite number; use none if it is not known.",
        )
        require(
            self.shrink is None or self.shrink < 1,
            f"{prefix}shrink={self.shrink} must be < 1; use 0.5 to halve a period, or none to let it stay.",
        )
        if self.factor is not None:
            require_at_least(
                f"{prefix}factor", self.factor, 2, fix="use algorithm=minibatch for batches that do not grow"
            )


def _require_owned(
    name: str, value: object, *, owners: set[str], choice: tuple[str, str], example: str | None = None
) -> None:
    """Refuse a value that would be ignored because of another choice; with an example, also refuse its absence."""
    chooser, chosen = choice
    names = " or ".join(sorted(owners))
    require(
        chosen in owners or value is None or value is False,
        f"{name}={_typed(value)} has no meaning with {chooser}={chosen}; set {chooser}={names}, or "
        f"{name}={'false' if value is True else 'none'}.",
    )
    require(
        chosen not in owners or value is not None or example is None,
        f"{name}=none must be given with {chooser}={chosen}; for example {name}={example}.",
    )


def _typed(value: object) -> str:
    """Write a value as it is typed."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
