"""Which engine trains a run: what each of them cannot do, and which is the fastest of those that can."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from localsgd._checks import require
from localsgd.lab.config import RunConfig
from localsgd.lab.engine.graph import GraphEngine
from localsgd.lab.engine.plain import PlainEngine
from localsgd.lab.engine.protocol import Crew, Engine, EngineName
from localsgd.lab.engine.stacked import StackedEngine
from localsgd.lab.forward import has_active_dropout
from localsgd.lab.tasks import Staged, Task

__all__ = ["ENGINES", "choose_engine", "why_not"]

ENGINES: Mapping[EngineName, Callable[[Crew], Engine]] = MappingProxyType(
    {"plain": PlainEngine, "stacked": StackedEngine, "graph": GraphEngine}
)
"""Every engine by its name."""

_TINY = 20_000
"""Parameters up to which the stacked engine is faster on a CPU, as far as measured: see `choose_engine`."""


def why_not(name: EngineName, config: RunConfig, *, task: Task, model: nn.Module) -> str | None:
    """Say why an engine cannot train a run.

    Args:
        name: The engine.
        config: The run.
        task: What is learnt.
        model: That of one worker.

    Returns:
        The reason; ``None`` if it can.
    """
    if name == "plain":
        return None
    optimizer, of_model = config.optimizer, f"model {config.model.name!r}"
    reasons = [
        (not isinstance(task, Staged), f"{of_model} carries a state from step to step"),
        (has_active_dropout(model), f"{of_model} has dropout, whose masks are seeded anew for each worker's step"),
        (optimizer.gradient_noise is not None, "gradient noise is drawn anew for each worker's step"),
        (config.algorithm == "growing-minibatch", "a step of growing-minibatch may be made of several batches"),
    ]
    if name == "graph":
        reasons += [(not optimizer.fused, "optimizer.fused=false reads the learning rate on the host in each step")]
    if name == "stacked":
        reasons += [
            (any(True for _ in model.buffers()), f"{of_model} has buffers that change as it trains (BatchNorm)"),
            (optimizer.name == "lars", "LARS looks at the norm of each worker's tensors"),
            (optimizer.clip_norm is not None, "optimizer.clip_norm looks at the norm of each worker's gradient"),
            (
                config.channels_last is True,
                "channels_last is a format of four dimensions, and stacked images have five",
            ),
        ]
    return next((reason for applies, reason in reasons if applies), None)


def choose_engine(
    config: RunConfig, task: Task, model: nn.Module, *, num_rows: int, device: torch.device
) -> EngineName:
    """Choose an engine: the one that is asked for, or with ``auto`` the fastest one that can train the run.

    On a GPU that is ``graph``. On a CPU it is ``stacked`` for several rows of a tiny model, for which a step is mostly
    Python; larger ones leave the caches when their rows are computed together, and ``plain`` is faster.

    Args:
        config: The run.
        task: What is learnt.
        model: That of one worker.
        num_rows: Workers in this process V.
        device: Where it computes.

    Returns:
        Its name.

    Raises:
        ArgumentError: If an engine is asked for that cannot train the run; the message says why.
    """
    if config.engine != "auto":
        reason = why_not(config.engine, config, task=task, model=model)
        require(
            reason is None, f"engine={config.engine!r} cannot train this: {reason}; use engine=auto or engine=plain."
        )
        return config.engine
    if device.type == "cuda":
        return "graph" if why_not("graph", config, task=task, model=model) is None else "plain"
    is_tiny = num_rows >= 4 and sum(parameter.numel() for parameter in model.parameters()) <= _TINY
    return "stacked" if is_tiny and why_not("stacked", config, task=task, model=model) is None else "plain"
