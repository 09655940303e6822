"""What a group of rows is to whoever averages: a layout, memory, and the tensors that look into it."""

from typing import Protocol

from torch import Tensor

from localsgd.buffers.layout import Layout

__all__ = ["RowGroup"]


class RowGroup(Protocol):
    """The part of all rows that lies in one piece of memory."""

    @property
    def layout(self) -> Layout:
        """Where each tensor lies in a row."""
        ...

    @property
    def storage(self) -> Tensor:
        """All rows, shape (V, L); each row is contiguous."""
        ...

    def parameters(self, row: int) -> list[Tensor]:
        """List the parameters of a row.

        Args:
            row: Number of the row.

        Returns:
            The parameter objects themselves, in the layout's order.
        """
        ...

    def tensors(self, row: int) -> list[Tensor]:
        """List the tensors of a row as its module holds them now.

        Args:
            row: Number of the row.

        Returns:
            Parameters, then buffers.
        """
        ...
