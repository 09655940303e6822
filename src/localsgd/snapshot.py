"""A copy of everything that reading the consensus model may disturb, and its return."""

from collections.abc import Sequence
from typing import final

from torch import nn

from localsgd.buffers.flat import FlatRows

__all__ = ["Snapshot"]


@final
class Snapshot:
    """The state of all rows at one moment: parameters, every module buffer, training modes.

    Cost:
        One copy of the rows.
    """

    def __init__(self, rows: FlatRows, models: Sequence[nn.Module]) -> None:
        """Copy the state.

        Args:
            rows: The rows to copy.
            models: Their modules.
        """
        self._rows = rows
        self._storages = [group.storage.clone() for group in rows.groups]
        self._buffers = [(buffer, buffer.clone()) for model in models for buffer in model.buffers()]
        self._modes = [(module, module.training) for model in models for module in model.modules()]

    def restore(self) -> None:
        """Put everything back, bit for bit."""
        self._rows.take_back()
        for group, storage in zip(self._rows.groups, self._storages, strict=True):
            group.storage.copy_(storage)
        for buffer, copy in self._buffers:
            buffer.copy_(copy)
        for module, training in self._modes:
            module.training = training
