"""The options of LocalSGD: what each may be, and what does not go together."""

from collections.abc import Mapping
from typing import Any

from localsgd._checks import require, require_choice, require_positive
from localsgd.communicators import Communicator
from localsgd.compression import require_compressor
from localsgd.late.overlap import require_overlap
from localsgd.outer import OuterOptimizer
from localsgd.schedules import Schedule
from localsgd.topology import Topology

__all__ = ["require_communicator", "require_options"]

_CHOICES = {
    "buffers": ("average", "local", "broadcast"),
    "non_finite": ("raise", "exclude"),
    "optimizer_state": ("keep", "average", "reset"),
    "one_step_rounds": ("gradients", "parameters"),
}


def require_options(options: Mapping[str, Any]) -> None:
    """Check the options of `LocalSGD` that do not depend on model and processes.

    Args:
        options: By name.

    Raises:
        ArgumentError: If one of them cannot be honoured, or two of them not together.
    """
    schedule, topology, outer = options["schedule"], options["topology"], options["outer"]
    require(
        _is_instance(schedule, Schedule), f"schedule={schedule!r} is no schedule; for example pass localsgd.Every(8)."
    )
    require(
        topology is None or isinstance(topology, Topology),
        f"topology={topology!r} must be a localsgd.Topology, for example Topology((2, 4)).",
    )
    require(
        _is_instance(outer, OuterOptimizer),
        f"outer={outer!r} is no outer optimizer; for example pass localsgd.SlowMo().",
    )
    _require_compression(options["compression"])
    for name, choices in _CHOICES.items():
        require_choice(name, options[name], choices)
    require(
        not (options["non_finite"] == "exclude" and options["buffers"] == "broadcast"),
        "non_finite='exclude' cannot be combined with buffers='broadcast': worker 0's buffers have no substitute "
        "when it is the one excluded; use buffers='average'.",
    )
    require(
        isinstance(options["overlap_gradients"], bool),
        f"overlap_gradients={options['overlap_gradients']!r} must be True or False.",
    )
    require_overlap(options)
    if options["clip_norm"] is not None:
        require_positive("clip_norm", options["clip_norm"], fix="use None to train without clipping")


def require_communicator(communicator: object) -> None:
    """Check the communicator, on which every other check relies.

    Args:
        communicator: What was passed.

    Raises:
        ArgumentError: If it is none.
    """
    require(
        communicator is None or _is_instance(communicator, Communicator),
        f"communicator={communicator!r} is none; pass localsgd.Processes(group), or nothing for the default.",
    )


def _require_compression(compression: object) -> None:
    if not isinstance(compression, list | tuple):
        if compression is not None:
            require_compressor("compression", compression)
        return
    for level, entry in enumerate(compression, start=1):
        if entry is not None:
            require_compressor(f"compression of level {level}", entry)


def _is_instance(value: object, protocol: type) -> bool:
    return isinstance(value, protocol) and not isinstance(value, type)
