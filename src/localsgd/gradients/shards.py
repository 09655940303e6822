"""The gradients of sharded parameters in a round of one step: averaged where they are, through buckets."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from localsgd.buffers.arithmetic import are_finite, is_finite
from localsgd.buffers.shards import Shard, as_row

__all__ = ["ShardGradients"]


@final
class ShardGradients:
    """This process's parts of its worker's gradients, which fully_shard has averaged over the worker's processes already.

    Attributes:
        vectors: The gradients, one a shard, shape (n,): the memory of ``grad`` itself. Empty between steps.
        counts: For each shard how many workers had a gradient.

    Cost:
        No copy; zeros for parameters without a gradient, while the exchange lasts.
    """

    def __init__(self, shards: Sequence[Shard], *, device: torch.device) -> None:
        """Prepare.

        Args:
            shards: This process's parts of the parameters.
            device: Where counts are kept.
        """
        self._parameters = [shard.parameters(0)[0] for shard in shards]
        self._names = [shard.name for shard in shards]
        self.vectors: list[Tensor] = []
        self.counts = torch.zeros(len(shards), device=device)

    @property
    def exchanged(self) -> list[Tensor]:
        """All that travels besides what rows have; nothing if there are no shards."""
        return [*self.vectors, self.counts] if self.vectors else []

    @torch.no_grad()
    def read_(self) -> str | None:
        """Find the gradients of this step; where there is none, ``grad`` becomes zeros.

        Returns:
            The name of the first parameter whose gradient is not finite; ``None`` if all are.
        """
        is_used = [parameter.grad is not None for parameter in self._parameters]
        self.counts.copy_(torch.tensor(is_used))
        self.vectors = []
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.vectors.append(as_row(parameter.grad))
        if are_finite(self.vectors):
            return None
        named = zip(self._names, self.vectors, strict=True)
        return next((name for name, vector in named if not is_finite(vector)), None)

    def drop_(self) -> None:
        """Leave this worker's gradients out of the mean."""
        for vector in self.vectors:
            vector.zero_()

    def settle_(self) -> None:
        """Take ``grad`` away again where no worker had one; the others hold the mean."""
        for parameter, count in zip(self._parameters, self.counts.tolist(), strict=True):
            if not count:
                parameter.grad = None
        self.vectors = []
