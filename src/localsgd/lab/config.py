"""The configuration of one run: frozen, checked, and complete enough to repeat the run."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

from localsgd._checks import describe_choice, require, require_at_least, require_fraction, require_positive
from localsgd.errors import ArgumentError
from localsgd.lab.field_types import accept, describe, field_types, require_field_types
from localsgd.lab.models import MODELS
from localsgd.lab.overrides import apply_overrides
from localsgd.lab.sections import (
    CompressionConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    OuterConfig,
    ScheduleConfig,
)

__all__ = ["ALGORITHMS", "Algorithm", "RunConfig"]

Algorithm = Literal[
    "minibatch", "growing-minibatch", "local", "post-local", "hierarchical", "qsr", "adacomm", "drift-triggered"
]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
"""The algorithms by name: sync after every step; the same with larger batches after a switch; after every period; after
every step at first, then every period; inside blocks after every period, and everyone more rarely; after periods that grow
as the learning rate falls; that shrink as the loss falls; whenever the workers are too far apart."""

_AVERAGING, _UNCOMPRESSED, _NO_SCHEDULE = OuterConfig(), CompressionConfig(), ScheduleConfig()


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes, and by which engine; where and on what it runs is said elsewhere."""

    recipe: str
    """Name of the recipe that this came from."""

    data: DataConfig
    """Which samples, and which worker trains on which of them."""

    model: ModelConfig
    """Which network."""

    optimizer: OptimizerConfig
    """Each worker's own optimizer, and its learning rate."""

    outer: OuterConfig = _AVERAGING
    """What becomes of the workers' mean."""

    compression: CompressionConfig = _UNCOMPRESSED
    """In what workers tell each other how far they have moved; gradients, which mini-batches average, travel as they are
    whatever this says."""

    overlap_steps: int = 0
    """Steps that go on while a sync of everyone's parameters is under way, >= 0; 0 waits. Mini-batches always wait."""

    overlap_mixing: float | None = None
    """Share of a worker's own parameters in what it goes on with when such a sync lands, in [0, 1); ``None`` keeps all
    progress of the steps meanwhile, and adds what the sync has changed."""

    fragments: int = 1
    """Parts of the model that sync in turn within a round, >= 1; mini-batches send their gradients whole."""

    algorithm: Algorithm = "post-local"
    """When the workers sync: after every step (``minibatch``), the same with ``schedule.factor`` times the batch after a
    switch (``growing-minibatch``), after every ``period`` (``local``), after every step up to a switch and after every
    ``period`` from there (``post-local``), inside blocks after every ``period`` and everyone after every ``block_period``
    of these (``hierarchical``), by the quadratic rule from ``period`` upwards (``qsr``), from ``period`` downwards as the
    loss falls (``adacomm``), or as soon as the drift reaches ``schedule.threshold``, after ``period`` steps at the latest
    (``drift-triggered``)."""

    schedule: ScheduleConfig = _NO_SCHEDULE
    """What some algorithms need to know besides."""

    workers: int
    """Number of workers K, over all processes, >= 1."""

    batch_size: int
    """Samples of one worker in one step, >= 1."""

    period: int
    """Steps in a round, >= 1: all rounds of ``local`` and ``hierarchical``, those after the switch of ``post-local``, the
    shortest of ``qsr``, the longest of ``adacomm`` and ``drift-triggered``; mini-batches have rounds of one step whatever
    this says."""

    block_size: int | None = None
    """Neighbouring workers that make a block (a node, say), >= 1, a divisor of ``workers``. ``hierarchical`` needs it; with
    the other algorithms it only splits the count of bytes into those inside blocks and between them."""

    block_period: int | None = None
    """Rounds between two averages of everyone in ``hierarchical``, >= 1, which needs it."""

    switch_at: Literal["lr-decay"] | float = "lr-decay"
    """When ``post-local`` and ``growing-minibatch`` switch: at the first milestone of the learning rate, or after this
    fraction of the steps, in (0, 1)."""

    epochs: float
    """Length of the run in passes over the training samples, all workers together, > 0."""

    seed: int = 0
    """Decides initial weights, order of the samples and augmentation; >= 0."""

    buffers: Literal["average", "local", "broadcast"] = "average"
    """What happens to BatchNorm's running statistics at a sync: averaged, left alone, or taken from worker 0."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of convolutions and matrix products; parameters and sums are float32 in any case. ``auto`` takes bfloat16
    where the devices compute it by themselves and the model is of a kind for which it was measured to be faster and to
    change nothing else, otherwise float32. What it took stands in the run's ``config.json``, and is kept on resuming."""

    channels_last: Literal["auto"] | bool = "auto"
    """Whether convolutions see their channels last in memory; often faster, same results to rounding. ``auto`` says yes for
    a model with convolutions on devices that are made for it; likewise."""

    engine: Literal["auto", "plain", "stacked", "graph"] = "auto"
    """How one process takes the steps of its workers: one after another (``plain``), as one batched computation
    (``stacked``), or on a GPU as one captured graph (``graph``); ``auto`` takes the fastest that can. The results are those
    of ``plain``, at least to rounding, so a run may be resumed with another engine."""

    evaluate_every_epochs: int | None = 1
    """Whole epochs between evaluations, >= 1; ``None`` evaluates at the end only."""

    evaluation_batch_size: int = 250
    """Test samples that go through the model at once, >= 1."""

    reestimate_batches: int | None = None
    """Training batches from which the final evaluation re-estimates BatchNorm's statistics for one more accuracy, >= 1;
    ``None`` for not at all."""

    checkpoint_every_epochs: int | None = 10
    """Whole epochs between checkpoints, >= 1; ``None`` saves at the end, and when interrupted, only."""

    def __post_init__(self) -> None:
        require_field_types(self)
        for name in ("workers", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("period", self.period, 1, fix="1 is mini-batch training")
        self._check_blocks()
        self.schedule.check(self.algorithm)
        self._check_model()
        require_positive("epochs", self.epochs)
        require_at_least("seed", self.seed, 0)
        for name in ("evaluate_every_epochs", "reestimate_batches", "checkpoint_every_epochs"):
            if (number := getattr(self, name)) is not None:
                require_at_least(name, number, 1, fix="use none to do without")
        require_at_least("evaluation_batch_size", self.evaluation_batch_size, 1)
        self._check_exchange()
        require(
            self.switch_at == "lr-decay" or 0 < self.switch_at < 1,
            f"switch_at={self.switch_at!r} must be 'lr-decay' or a fraction of the run in (0, 1); "
            "algorithm 'local' never syncs after every step, 'minibatch' always does.",
        )

    def _check_exchange(self) -> None:
        require_at_least("overlap_steps", self.overlap_steps, 0, fix="0 waits for every sync")
        require_at_least("fragments", self.fragments, 1, fix="1 sends the model whole")
        if self.overlap_mixing is not None:
            require_fraction("overlap_mixing", self.overlap_mixing, fix="use none to keep all progress")
            require(
                self.overlap_steps > 0,
                f"overlap_mixing={self.overlap_mixing:g} has no meaning with overlap_steps=0; set overlap_steps, or "
                "overlap_mixing=none.",
            )

    def _check_model(self) -> None:
        reads, context = MODELS[self.model.name].reads, self.data.context
        needed = "the tokens of a window, such as 30," if reads == "text" else "none"
        require(
            (reads == "text") == (context is not None),
            f"data.context={context} must be {needed} for model {self.model.name!r}, which reads {reads}.",
        )
        require(
            reads != "features" or self.optimizer.weight_decay == 0,
            f"optimizer.weight_decay={self.optimizer.weight_decay:g} must be 0 for model {self.model.name!r}: its objective "
            "has a penalty of its own, and its minimum, from which sub-optimality counts, is of that one; set "
            "optimizer.weight_decay=0.",
        )

    def _check_blocks(self) -> None:
        for name, what in (
            ("block_size", "the workers in a block"),
            ("block_period", "the rounds between two of everyone"),
        ):
            number = getattr(self, name)
            require(
                number is not None or self.algorithm != "hierarchical",
                f"algorithm='hierarchical' needs {name}, {what}; give {name} "
                f"(--{name.replace('_', '-')} on the command line).",
            )
            if number is not None:
                require_at_least(name, number, 1, fix="use none to leave it out")
        if self.block_size is not None and self.workers % self.block_size:
            fitting = [str(size) for size in range(1, self.workers + 1) if self.workers % size == 0]
            raise ArgumentError(
                f"block_size={self.block_size} must divide workers={self.workers} into blocks of one size; use one of "
                f"{', '.join(fitting)}."
            )

    def overridden(self, assignments: Iterable[str]) -> "RunConfig":
        """Change fields, each given as text; see :func:`localsgd.lab.overrides.apply_overrides`.

        Args:
            assignments: Each ``path.to.field=value``.

        Returns:
            A new configuration.

        Raises:
            ArgumentError: If an assignment cannot be honoured.
        """
        return apply_overrides(self, assignments)

    @property
    def only_averages_gradients(self) -> bool:
        """Whether all rounds have one step, by definition of the algorithm."""
        return self.algorithm in ("minibatch", "growing-minibatch")

    def to_dict(self) -> dict[str, Any]:
        """Turn into plain dictionaries, lists, numbers and text, ready for JSON."""
        plain = _to_plain(self)
        return dict(plain)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Read back what `to_dict` gave.

        Args:
            values: The fields by name; those that have a default may be missing.

        Returns:
            The configuration.

        Raises:
            ArgumentError: If a field is unknown, missing, or has a value that does not fit.
        """
        config: RunConfig = _from_plain(cls, values, path="")
        return config


def _to_plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _to_plain(getattr(value, field.name)) for field in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _from_plain(section: Any, values: object, *, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise ArgumentError(f"{path.rstrip('.') or 'the configuration'} must be a section with fields, not {values!r}.")
    known = field_types(section)
    for name in values:
        require(name in known, f"there is no field {path + str(name)!r}; {describe_choice(str(name), known)}.")
    needed = {field.name for field in fields(section) if field.default is MISSING}
    missing = [path + name for name in known if name in needed - set(values)]
    require(not missing, f"the configuration lacks {', '.join(missing)}; add what is missing.")
    return section(**{name: _read(known[name], value, path=path + name) for name, value in values.items()})


def _read(annotation: Any, value: object, *, path: str) -> object:
    if is_dataclass(annotation):
        return _from_plain(annotation, value, path=f"{path}.")
    try:
        return accept(annotation, value)
    except ValueError:
        raise ArgumentError(f"{path}={value!r} must be {describe(annotation)}.") from None
