"""What happens to the workers' own optimizer state (momentum, second moments) when parameters are averaged."""

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from localsgd.averaging.averager import Averager
from localsgd.averaging.facts import Facts
from localsgd.buffers.arithmetic import add_scaled_, is_finite
from localsgd.buffers.flat import FlatRows, RowGroup

__all__ = ["OptimizerState", "OptimizerStatePolicy"]

OptimizerStatePolicy = Literal["keep", "average", "reset"]


@final
class OptimizerState:
    """Applies one policy after each average of parameters.

    ``keep``: every worker's momentum stays its own. ``average``: each tensor of state that has its parameter's shape is
    averaged over the block. ``reset``: all state is forgotten, so that optimizers begin anew.

    Attributes:
        keeps: Whether there is nothing to do at a sync.
    """

    def __init__(self, policy: OptimizerStatePolicy, rows: FlatRows, optimizers: Sequence[Optimizer]) -> None:
        """Prepare.

        Args:
            policy: What to do.
            rows: The workers of this process.
            optimizers: One a row.
        """
        self._policy, self._rows, self._optimizers = policy, rows, optimizers
        self.keeps = policy == "keep"

    @property
    def makes_replicas(self) -> bool:
        """Whether workers are alike after a sync, optimizer state included."""
        return self._policy == "reset"

    def sync(self, blocks: Sequence[Averager]) -> None:
        """Do what the policy says.

        Args:
            blocks: This process's blocks at the level of the sync.

        Raises:
            SyncError: If an exchange fails.

        Cost:
            Nothing but for ``average``: one exchange of small objects, then for each kind of state one all-reduce a group,
            with one vector of P values. Every process must call this.
        """
        if self._policy == "reset":
            for row in range(self._rows.num_rows):
                self.forget(row)
        elif self._policy == "average":
            for block in blocks:
                own = sorted({name for row in block.members for name in self._names(row)})
                for name in sorted({name for names in block.communicator.gather(own) for name in names}):
                    self._average(block, name)

    def forget(self, row: int) -> None:
        """Let an optimizer begin anew: that of a worker which was left out of the mean has learnt from what is not finite.

        Args:
            row: Number of the row.
        """
        for parameter in self._parameters(row):
            self._optimizers[row].state.pop(parameter, None)

    def _average(self, block: Averager, name: str) -> None:
        vectors = [_zeros(group) for group in self._rows.groups]
        num_finite = 0
        for row in block.members:
            found = [self._read(group, row, name) for group in self._rows.groups]
            # State that is not finite stays out, as the parameters of that worker did.
            if all(is_finite(vector) for vector in found):
                num_finite += 1
                for vector, own in zip(vectors, found, strict=True):
                    add_scaled_(vector, own, 1 / block.num_workers)
        total = block.exchange_(vectors, Facts(finite_workers=num_finite, weight=num_finite))
        if total.finite_workers:
            for row in block.members:
                for group, vector in zip(self._rows.groups, vectors, strict=True):
                    self._write(group, row, name, vector=vector)

    def _parameters(self, row: int) -> list[Tensor]:
        return [parameter for group in self._rows.groups for parameter in group.parameters(row)]

    def _names(self, row: int) -> set[str]:
        state = self._optimizers[row].state
        return {n for p in self._parameters(row) for n, value in state.get(p, {}).items() if _is_shaped_like(value, p)}

    def _read(self, group: RowGroup, row: int, name: str) -> Tensor:
        vector = _zeros(group)
        for entry, parameter in zip(group.layout.parameters, group.parameters(row), strict=True):
            value = self._optimizers[row].state.get(parameter, {}).get(name)
            if _is_shaped_like(value, parameter):
                entry.view(vector).copy_(value)
        return vector

    def _write(self, group: RowGroup, row: int, name: str, *, vector: Tensor) -> None:
        """Only where there is state already: half of an optimizer's state would confuse it."""
        for entry, parameter in zip(group.layout.parameters, group.parameters(row), strict=True):
            value = self._optimizers[row].state.get(parameter, {}).get(name)
            if _is_shaped_like(value, parameter):
                value.copy_(entry.view(vector))


def _is_shaped_like(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape == parameter.shape


def _zeros(group: RowGroup) -> Tensor:
    layout = group.layout
    length = layout.slots.stop
    return torch.zeros(length, dtype=layout.accumulation_dtype, device=layout.device)
