"""A way back to the beginning of some rounds of one step, in which all rows were replicas of each other."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from localsgd.lab.engine.protocol import Crew

__all__ = ["Rewind"]


@final
class Rewind:
    """Remembers one row for all, but module buffers of each, and the sums of losses.

    Cost:
        Memory of the parameters and the optimizer state of one row, and of the buffers of all; a few launches a `mark`.
    """

    def __init__(self, crew: Crew) -> None:
        """Remember nothing yet.

        Args:
            crew: The workers.
        """
        self._crew = crew
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._names: list[list[str]] = []

    def mark(self) -> None:
        """Remember this moment."""
        crew = self._crew
        first = crew.optimizers[0]
        self._names = [sorted(first.state.get(parameter, {})) for parameter in _parameters(first)]
        self._copies = _copied([*self._rows(0), *self._states(0), *self._own()], self._copies)

    def restore(self) -> None:
        """Go back to the moment of `mark`; tensors stay where they are."""
        num_rows, own = len(self._crew.models), self._own()
        copies = [copy for _, copy in self._copies]
        shared, others = copies[: len(copies) - len(own)], copies[len(copies) - len(own) :]
        for row in range(num_rows):
            optimizer = self._crew.optimizers[row]
            for parameter, names in zip(_parameters(optimizer), self._names, strict=True):
                if not names:
                    optimizer.state.pop(parameter, None)
            _copy_([*self._rows(row), *self._states(row)], shared)
        _copy_(own, others)

    def _rows(self, row: int) -> list[Tensor]:
        groups = self._crew.local.rows.groups
        return [group.storage[row, : group.layout.num_parameters] for group in groups]

    def _states(self, row: int) -> list[Tensor]:
        optimizer = self._crew.optimizers[row]
        named = zip(_parameters(optimizer), self._names, strict=True)
        return [optimizer.state[parameter][name] for parameter, names in named for name in names]

    def _own(self) -> list[Tensor]:
        buffers = [buffer for model in self._crew.models for buffer in model.buffers()]
        return [self._crew.losses.sums, *buffers]


def _parameters(optimizer: Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copied(tensors: Sequence[Tensor], earlier: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Copy tensors, into the memory of earlier copies of the same ones where there are any."""
    is_same = len(earlier) == len(tensors) and all(
        old.shape == new.shape and old.dtype == new.dtype for (old, _), new in zip(earlier, tensors, strict=True)
    )
    copies = [copy for _, copy in earlier] if is_same else [torch.empty_like(tensor) for tensor in tensors]
    _copy_(copies, tensors)
    return list(zip(tensors, copies, strict=True))


@torch.no_grad()
def _copy_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy lists of tensors, in one call for each dtype."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in targets):
        pairs = [(target, source) for target, source in zip(targets, sources, strict=True) if target.dtype == dtype]
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])  # it has no public name
