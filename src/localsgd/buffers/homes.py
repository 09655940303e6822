"""Where a tensor hangs in a module: found once at construction, looked at again before every sync."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from localsgd._checks import require

__all__ = ["Home", "find_buffers", "find_parameters", "is_sharded"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Home:
    """A tensor and every attribute through which its module reaches it."""

    name: str
    """First qualified name."""
    tensor: Tensor
    """The tensor found at construction."""
    places: tuple[tuple[dict[str, Any], str], ...]
    """Where modules keep it: their dictionaries of parameters or buffers, and the name there; several for tied weights."""

    @property
    def present(self) -> Any:
        """What the module has there now; ``None`` if nothing."""
        owner, attribute = self.places[0]
        return owner.get(attribute)


def find_parameters(model: nn.Module) -> list[Home]:
    """Find the trainable parameters of a module.

    Args:
        model: The module to walk.

    Returns:
        One home a parameter in the module's order; tied weights once, frozen ones not.

    Raises:
        ArgumentError: If a parameter cannot be averaged: complex, integer, lazy, on the meta device, or a wrapper around
            other tensors.
    """
    homes = _find((path, module._parameters) for path, module in model.named_modules())  # noqa: SLF001 - see Home.places
    trainable = [home for home in homes if home.tensor.requires_grad]
    for home in trainable:
        _require_averageable(home)
    return trainable


def find_buffers(model: nn.Module) -> list[Home]:
    """Find the floating, persistent buffers of a module (BatchNorm's running statistics, for one).

    Args:
        model: The module to walk.

    Returns:
        One home a buffer in the module's order. Integer buffers and non-persistent ones (caches) are left out.
    """
    persistent = set(model.state_dict(keep_vars=True))
    homes = _find((path, module._buffers) for path, module in model.named_modules())  # noqa: SLF001 - see Home.places
    return [h for h in homes if h.name in persistent and h.tensor.is_floating_point() and not is_sharded(h.tensor)]


def _find(owners: Iterable[tuple[str, dict[str, Any]]]) -> list[Home]:
    found: dict[int, tuple[str, Tensor, list[tuple[dict[str, Any], str]]]] = {}
    for path, owner in owners:
        for attribute, tensor in owner.items():
            if tensor is not None:
                name = f"{path}.{attribute}" if path else attribute
                found.setdefault(id(tensor), (name, tensor, []))[2].append((owner, attribute))
    return [Home(name=name, tensor=tensor, places=tuple(places)) for name, tensor, places in found.values()]


def is_sharded(tensor: Tensor) -> bool:
    """Say whether a tensor is a DTensor, of which this process holds a part.

    Whoever holds one has imported its module, which takes long to import, and nobody else should wait.

    Args:
        tensor: Any tensor.

    Returns:
        Whether it is.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _require_averageable(home: Home) -> None:
    tensor, what = home.tensor, f"parameter {home.name!r}"
    require(
        not isinstance(tensor, UninitializedParameter),
        f"{what} is lazy and has no shape yet; run one batch through the model before constructing LocalSGD.",
    )
    require(
        is_sharded(tensor) or not hasattr(tensor, "__tensor_flatten__"),
        f"{what} is a {type(tensor).__name__}, which wraps other tensors and has no memory of its own to average; freeze it "
        "with requires_grad_(False), or wrap the model after training.",
    )
    require(
        tensor.device.type != "meta",
        f"{what} is on the meta device; materialise the model before constructing LocalSGD.",
    )
    require(
        tensor.is_floating_point() and tensor.layout == torch.strided,
        f"{what} has dtype {tensor.dtype} and layout {tensor.layout}; only dense real floating tensors are averaged. "
        "Freeze it with requires_grad_(False) or store it as real numbers (torch.view_as_real).",
    )
