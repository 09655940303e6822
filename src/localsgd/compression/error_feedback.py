"""A memory of what the wire lost: it is added to the next change, so that nothing is lost for good."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from localsgd._checks import require
from localsgd.compression.protocol import Compressor, require_compressor

__all__ = ["ErrorFeedback"]


@final
@dataclass(frozen=True)  # positional: ErrorFeedback(Sign()) is how one says it
class ErrorFeedback:
    """Send what another compressor sends, and let `localsgd.compressed.sum.CompressedSum` remember what got lost.

    Each process keeps, for what it sent, ``residual = meant - decoded``, where *decoded* is read from the very bytes that
    were sent, and adds it to its next change. The owner of a part of the mean does the same with that part when it is sent
    back to everyone. So after any number of syncs, what has arrived plus all residuals is what was meant, up to rounding.

    The bytes are those of ``inner``.

    Raises:
        ArgumentError: If ``inner`` is not a compressor, or remembers already.

    Cost:
        One more decoding of each payload where it was made, and (1 + 1/n) P values of state for n processes.

    Source:
        Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2 (EF-SGD); both directions: Tang et al. 2019, arXiv:1905.05957
        (DoubleSqueeze), algorithm 1, with the server's part dealt out over the processes.
    """

    inner: Compressor
    """What makes the payloads."""

    def __post_init__(self) -> None:
        require_compressor("inner", self.inner)
        require(
            not self.inner.keeps_residual,
            f"inner={self.inner!r} must not keep a residual of its own: what was lost would be added twice.",
        )

    @property
    def keeps_residual(self) -> bool:
        """Yes: that is what this is for."""
        return True

    def num_bytes(self, num_values: int) -> int:
        """Give the size of a payload.

        Args:
            num_values: Length of the vector.

        Returns:
            That of ``inner``.
        """
        return self.inner.num_bytes(num_values)

    def encode(self, vector: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Make a payload.

        Args:
            vector: Shape (n,), floating: the change and what earlier payloads lost. Not modified.
            generator: For ``inner``.

        Returns:
            Shape (num_bytes(n),), uint8.
        """
        return self.inner.encode(vector, generator=generator)

    def decode(self, payload: Tensor, num_values: int) -> Tensor:
        """Read a payload.

        Args:
            payload: What `encode` made. Not modified.
            num_values: Length of the vector.

        Returns:
            Shape (num_values,), float32.
        """
        return self.inner.decode(payload, num_values)
