"""Half precision: two bytes a value, eleven bits of it, and a scale that keeps small changes from vanishing."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from localsgd.compression.payload import as_float32, join, padded, part

__all__ = ["Float16"]

_TOP_EXPONENT = 15  # scaled values stay below 2 ** 15, half of what float16 can hold
_SCALE_BYTES = 4


@final
@dataclass(frozen=True, kw_only=True)
class Float16:
    """Send float16 values and one power of two for all of them.

    Changes of parameters are often smaller than 6e-8, the smallest float16 above zero. So the vector is scaled by a power of
    two that brings its largest value just below 2^15: values down to 2^-28 of the largest keep eleven bits.

    Cost:
        2 bytes a value and 4 for the scale.

    Example:
        >>> import torch
        >>> change = torch.tensor([2.0**-30, -3 * 2.0**-30])
        >>> change.half(), Float16().decode(Float16().encode(change), 2) == change
        (tensor([0., -0.], dtype=torch.float16), tensor([True, True]))
    """

    @property
    def keeps_residual(self) -> bool:
        """No: wrap it in ErrorFeedback for that."""
        return False

    def num_bytes(self, num_values: int) -> int:
        """Give the size of a payload.

        Args:
            num_values: Length of the vector.

        Returns:
            The scale and two bytes a value, rounded up to a multiple of 4; 0 for an empty vector.
        """
        return padded(_SCALE_BYTES + 2 * num_values) if num_values else 0

    def encode(self, vector: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Make a payload.

        Args:
            vector: Shape (n,), floating. Not modified.
            generator: Not needed.

        Returns:
            Shape (num_bytes(n),), uint8.
        """
        del generator
        vector = as_float32(vector)
        if not vector.numel():
            return vector.new_empty(0, dtype=torch.uint8)
        low, high = torch.aminmax(vector)
        exponent = torch.frexp(torch.maximum(high, -low)).exponent
        exponent = _TOP_EXPONENT - exponent.clamp(min=_TOP_EXPONENT - 126)  # both 2^exponent and its inverse are normal
        one = vector.new_ones(())
        return join(torch.ldexp(one, -exponent), (vector * torch.ldexp(one, exponent)).to(torch.float16))

    def decode(self, payload: Tensor, num_values: int) -> Tensor:
        """Read a payload.

        Args:
            payload: What `encode` made. Not modified.
            num_values: Length of the vector.

        Returns:
            Shape (num_values,), float32.
        """
        if not num_values:
            return payload.new_empty(0, dtype=torch.float32)
        scale = part(payload, 0, count=1, dtype=torch.float32)
        return part(payload, _SCALE_BYTES, count=num_values, dtype=torch.float16).to(torch.float32).mul_(scale)
