"""Compressed sums of units that live in one process: the numbers are those of a cluster, though no wire is there."""

from collections.abc import Iterable, Iterator
from typing import final

import torch
from torch import Tensor

from localsgd.communicators import Communicator
from localsgd.compressed.sum import cut_buckets, require_same_sizes, rounding_generator, share_lengths
from localsgd.compression import Compressor

__all__ = ["EmulatedSum"]


@final
class EmulatedSum:
    """Sums the changes of several units of each process as `localsgd.compressed.sum.CompressedSum` sums those of processes.

    Each unit (a row, or a block of rows) owns a share of the vector, makes payloads of the shares of all others, and all of
    it is read again in place. With one process and rounding to the nearest, the result is the same bit for bit as that of
    as many processes. With several processes, what crosses between them is not compressed.

    Cost:
        For u units of P values with error feedback (u + 1) P values of state; in each sum P values of temporary memory, and
        two all-reduces between the processes.
    """

    def __init__(
        self,
        compressor: Compressor,
        communicator: Communicator,
        *,
        num_units: int,
        num_values: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
        bucket_values: int | None = None,
    ) -> None:
        """Begin with nothing owed.

        Args:
            compressor: What makes the payloads.
            communicator: The processes, each of which holds as many units.
            num_units: Units of this process.
            num_values: Length of the vectors (P).
            dtype: Their type, float32 or float64.
            device: Where they live.
            seed: Of stochastic rounding.
            bucket_values: Values of a part that is compressed at a time; default as for `cut_buckets`.
        """
        self._compressor, self._communicator, self._seed = compressor, communicator, seed
        self._num_members = num_units * communicator.world_size
        self._own_units = range(num_units * communicator.rank, num_units * (communicator.rank + 1))
        self._num_values, self._dtype, self._device = num_values, dtype, torch.empty(0, device=device).device
        self._buckets = cut_buckets(num_values, device=self._device, bucket_values=bucket_values)
        length = num_values if compressor.keeps_residual else 0
        self._residuals = torch.zeros((num_units, length), dtype=dtype, device=device)
        self._owned_residual = torch.zeros(length, dtype=dtype, device=device)
        self.num_sums = 0

    def sum(
        self, changes: Iterable[Tensor], *, communicator: Communicator | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Sum vectors over the units of all processes, as their payloads tell them.

        Args:
            changes: One a unit of this process, shape (P,), all finite; looked at one after the other, so that all may come
                in the same memory. Overwritten.
            communicator: The same processes in another group, in which this sum goes on beside exchanges of the usual one.
            out: Where the sum is wanted, apart from the changes; ``None`` makes a tensor. Overwritten.

        Returns:
            The sum, shape (P,); the same bits on every process.

        Raises:
            SyncError: If an exchange fails or times out.
        """
        whole = self._communicator if communicator is None else communicator
        total = torch.empty(self._num_values, dtype=self._dtype, device=self._device) if out is None else out
        total.zero_()
        for index, change in enumerate(changes):
            self._tell_(index, change, total)
        if whole.world_size > 1:
            whole.all_reduce_(total)
        generators = {unit: self._generator(f"sum {unit}") for unit in self._own_units}
        for unit, place in self._shares():
            if unit not in self._own_units:
                total[place] = 0
            else:
                self._conclude_(total[place], self._owed(self._owned_residual, place), generators[unit])
        if whole.world_size > 1:
            whole.all_reduce_(total)  # exact: each value is there once, and zeros
        self.num_sums += 1
        return total

    def state(self, index: int) -> dict[str, Tensor]:
        """Give what a unit still owes, in the form of `localsgd.compressed.sum.CompressedSum.state`.

        Args:
            index: Which of this process's units.

        Returns:
            ``residual`` and ``owned_residual``.
        """
        own = [self._owed(self._owned_residual, place) for place in self._owned_places(index)]
        owned = torch.cat(own) if own else self._owned_residual
        return {"residual": self._residuals[index], "owned_residual": owned}

    def load(self, index: int, state: dict[str, Tensor]) -> None:
        """Take what a unit owed.

        Args:
            index: Which of this process's units.
            state: What `state` returned, or `localsgd.compressed.sum.CompressedSum.state` of a process that was this unit.

        Raises:
            ArgumentError: If it was saved with another compressor, model or arrangement of workers.
        """
        require_same_sizes(state, self.state(index))
        self._residuals[index].copy_(state["residual"])
        if self._compressor.keeps_residual:
            places = self._owned_places(index)
            lengths = [place.stop - place.start for place in places]
            for place, part in zip(places, torch.split(state["owned_residual"], lengths), strict=True):
                self._owned_residual[place] = part

    def _tell_(self, index: int, change: Tensor, total: Tensor) -> None:
        generator = self._generator(str(self._own_units[index]))
        residual = self._residuals[index]
        if residual.numel():
            change += residual
        for unit, place in self._shares():
            told = change[place]
            if unit != self._own_units[index]:  # its own share would not cross a wire
                told = self._through_wire(change[place], generator)
                if residual.numel():
                    torch.sub(change[place], told, out=residual[place])
            total[place] += told

    def _conclude_(self, share: Tensor, owed: Tensor, generator: torch.Generator) -> None:
        if owed.numel():
            share += owed
        told = self._through_wire(share, generator)
        if owed.numel():
            torch.sub(share, told, out=owed)
        share.copy_(told)

    def _through_wire(self, share: Tensor, generator: torch.Generator) -> Tensor:
        return self._compressor.decode(self._compressor.encode(share, generator=generator), share.numel())

    def _owed(self, residual: Tensor, place: slice) -> Tensor:
        return residual[place] if residual.numel() else residual

    def _owned_places(self, index: int) -> list[slice]:
        return [place for unit, place in self._shares() if unit == self._own_units[index]]

    def _shares(self) -> Iterator[tuple[int, slice]]:
        """Go through all shares of all buckets: who owns it, and where it lies."""
        for bucket in self._buckets:
            begin = bucket.start
            for unit, length in enumerate(share_lengths(bucket, self._num_members)):
                yield unit, slice(begin, begin + length)
                begin += length

    def _generator(self, who: str) -> torch.Generator:
        return rounding_generator(f"{self._seed} {who} {self.num_sums}", self._device)
