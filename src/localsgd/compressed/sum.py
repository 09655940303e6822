"""Sums over processes of which only payloads cross the wire."""

import functools
import hashlib
import time
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from localsgd._checks import require, require_at_least
from localsgd.communicators import Communicator, Nested, PayloadCommunicator, require_agreement
from localsgd.compression import PAYLOAD_VERSION, Compressor, require_compressor
from localsgd.errors import ArgumentError

__all__ = [
    "CompressedSum",
    "cut_buckets",
    "find_payload_group",
    "payload_bytes",
    "require_same_sizes",
    "rounding_generator",
    "share_lengths",
]


def cut_buckets(num_values: int, *, device: torch.device, bucket_values: int | None = None) -> list[slice]:
    """Cut a vector into the parts that are exchanged at a time.

    Args:
        num_values: Its length.
        device: Where it lives.
        bucket_values: Values of a part, >= 1; default 2^20 on a CPU, whose cache they fit between two passes, and 2^26 on an
            accelerator, where each exchange should be a long one.

    Returns:
        The parts, in order; only the last may be shorter.

    Raises:
        ArgumentError: If ``bucket_values`` is below 1.
    """
    if bucket_values is None:
        bucket_values = 1 << (20 if device.type == "cpu" else 26)
    require_at_least("bucket_values", bucket_values, 1)
    return [slice(begin, min(begin + bucket_values, num_values)) for begin in range(0, num_values, bucket_values)]


def share_lengths(bucket: slice, num_members: int) -> list[int]:
    """Cut a bucket as `Tensor.tensor_split` does: the first shares have a value more where it does not divide.

    Args:
        bucket: Part of a vector.
        num_members: Number of shares.

    Returns:
        The length of each share.
    """
    length = int(bucket.stop - bucket.start)
    return [length // num_members + int(member < length % num_members) for member in range(num_members)]


def payload_bytes(compressor: Compressor, buckets: list[slice], *, num_members: int) -> int:
    """Say what each member of a group sends to the others in one compressed sum.

    Args:
        compressor: What makes the payloads.
        buckets: What `cut_buckets` gave.
        num_members: Members of the group.

    Returns:
        Bytes: a payload of a share to every other member, and one of the sum of the own share.
    """
    largest = (max(share_lengths(bucket, num_members)) for bucket in buckets)
    return 2 * (num_members - 1) * sum(map(compressor.num_bytes, largest))


def rounding_generator(name: str, device: torch.device) -> torch.Generator:
    """Make the randomness of one sum from what it is called, so that a resumed run draws the same, on any device.

    Args:
        name: What tells this sum, and who rounds, from all others.
        device: Where the vectors live.

    Returns:
        A new generator.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def find_payload_group(communicator: Communicator) -> PayloadCommunicator:
    """Find the processes between which payloads travel.

    Args:
        communicator: All processes.

    Returns:
        They themselves; where they are nested, those that hold the same share in the outermost blocks.

    Raises:
        ArgumentError: If they cannot carry payloads.
    """
    group: Communicator = communicator.outermost if isinstance(communicator, Nested) else communicator
    if not isinstance(group, PayloadCommunicator):
        raise ArgumentError(f"communicator={group!r} cannot carry payloads; use Processes(), or compression=None.")
    return group


def require_same_sizes(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Check that residuals which were saved are as long as those that are needed.

    Args:
        saved: Residuals by name; others may be there as well.
        own: Those that are needed.

    Raises:
        ArgumentError: If one is not.
    """
    for name, residual in own.items():
        require(
            saved[name].shape == residual.shape,
            f"state holds {name} of {saved[name].numel()} values where {residual.numel()} are needed; resume with the "
            "model, the compression and the number of processes with which it was saved.",
        )


@final
class CompressedSum:
    """Sums one vector over the processes, again and again, each time in payloads.

    Each process owns a share of the vector. It sends every other owner a payload of that one's share, adds up the payloads
    that it gets and its own values in the vector's type, and sends a payload of the sum to everyone. All processes, the
    owner included, then read the same bytes, so that all hold the same bits.

    What does not cross a wire is not compressed: a process's own share on the way to the sum, and all of the vector where
    there is one process. With nested blocks of processes, the sums inside the blocks are exact too, and what crosses between
    the outermost blocks is compressed.

    A compressor that keeps a residual (`localsgd.compression.ErrorFeedback`) has two here: of the vector that this process
    sends, and of the share that it owns. Both are written when a bucket has arrived everywhere, not before.

    Attributes:
        compressor: What makes the payloads.
        seconds_waited: Time spent inside exchanges so far.
        num_sums: Sums so far: from where stochastic rounding goes on.
    """

    def __init__(
        self,
        compressor: Compressor,
        communicator: Communicator,
        *,
        num_values: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
        bucket_values: int | None = None,
    ) -> None:
        """Compare the processes, and begin with nothing owed.

        Args:
            compressor: What makes the payloads.
            communicator: The processes.
            num_values: Length of the vectors (P).
            dtype: Their type, float32 or float64.
            device: Where they live.
            seed: Of stochastic rounding; processes draw different numbers from the same seed, and so do the sums one after
                another. Give vectors that are summed side by side different seeds.
            bucket_values: Values that are exchanged at a time; default as for `cut_buckets`.

        Raises:
            ArgumentError: If there is nothing to compress (whole numbers, for example), or the communicator cannot carry
                payloads.
            DisagreementError: If processes have different compressors, versions of payloads, vectors or seeds.

        Cost:
            One exchange of a digest. Every process must call this.
        """
        require_compressor("compressor", compressor)
        require(
            dtype in {torch.float32, torch.float64},
            f"dtype={dtype} must be torch.float32 or torch.float64, in which means are formed: whole numbers and counters "
            "are never averaged, so they cannot be compressed.",
        )
        require_at_least("num_values", num_values, 0)
        self.compressor = compressor
        self._num_values, self._dtype, self._device = num_values, dtype, torch.empty(0, device=device).device
        self.seconds_waited = self._seconds_in_group = 0.0
        self._communicator = communicator
        self._group = group = find_payload_group(communicator)
        if isinstance(communicator, Nested):
            num_values //= communicator.num_shares
        self._buckets = cut_buckets(num_values, device=self._device, bucket_values=bucket_values)
        self._seed, self.num_sums = seed, 0
        self._remembers = compressor.keeps_residual and group.world_size > 1
        num_owned = sum(share_lengths(bucket, group.world_size)[group.rank] for bucket in self._buckets)
        lengths = [num_values, num_owned] if self._remembers else [0, 0]
        self._residual, self._owned_residual = (torch.zeros(n, dtype=dtype, device=device) for n in lengths)
        options = f"{compressor!r} payload version {PAYLOAD_VERSION}, {num_values} values of {dtype}"
        largest = self._buckets[0].stop if self._buckets else 0
        require_agreement(communicator, {"compression": [f"{options}, buckets of {largest}, seed {seed}"]})

    @property
    def num_wire_bytes(self) -> int:
        """Bytes that each process sends to others of its group in one sum; inside nested blocks more are sent."""
        return payload_bytes(self.compressor, self._buckets, num_members=self._group.world_size)

    def sum_(self, vector: Tensor, *, communicator: Communicator | None = None) -> None:
        """Replace a vector by its sum over the processes, as the payloads tell it.

        Args:
            vector: Shape (P,), contiguous, all finite; of the dtype and on the device that were announced. Overwritten; the
                same bits on every process then.
            communicator: The same processes in another group, in which this sum goes on beside exchanges of the usual one.

        Raises:
            ArgumentError: If the vector is another one than was announced.
            SyncError: If an exchange fails or times out; vector and residuals are then of no use any more.

        Cost:
            An all-to-all and an all-gather a bucket: 2 (n - 1) / n of the payload's size is sent by each of n processes.
            Temporary memory of two payloads and three shares of a bucket. Every process must call this.
        """
        require(
            vector.shape == (self._num_values,) and vector.dtype == self._dtype and vector.device == self._device,
            f"vector of shape {list(vector.shape)} and {vector.dtype} on {vector.device} must be of shape "
            f"{[self._num_values]} and {self._dtype} on {self._device}, as at construction.",
        )
        whole = self._communicator if communicator is None else communicator
        group = self._group if communicator is None else find_payload_group(communicator)
        sum_in_group_ = functools.partial(self._sum_in_group_, group)
        if isinstance(whole, Nested):
            start, inside = time.perf_counter(), self._seconds_in_group
            whole.across_blocks_(vector, sum_in_group_)
            self.seconds_waited += time.perf_counter() - start - (self._seconds_in_group - inside)
        else:
            sum_in_group_(vector)
        self.num_sums += 1

    def state(self) -> dict[str, Tensor]:
        """Give what has to be saved, by name; tensors are not copies.

        Returns:
            ``residual``, what this process still owes to everyone; ``owned_residual``, the same for the sum of its own
            share; both empty where nothing is remembered. ``num_sums``, int64: from where stochastic rounding goes on.
        """
        return {
            "residual": self._residual,
            "owned_residual": self._owned_residual,
            "num_sums": torch.tensor(self.num_sums),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a saved state.

        Args:
            state: What `state` returned, on the same process of as many.

        Raises:
            ArgumentError: If it was saved with another compressor, model or number of processes.
        """
        own = {"residual": self._residual, "owned_residual": self._owned_residual}
        require_same_sizes(state, own)
        for name, residual in own.items():
            residual.copy_(state[name])
        self.num_sums = int(state["num_sums"])

    def _sum_in_group_(self, group: PayloadCommunicator, vector: Tensor) -> None:
        if group.world_size == 1:
            return
        start = time.perf_counter()
        generator = rounding_generator(f"{self._seed} {self._communicator.rank} {self.num_sums}", self._device)
        first_owned = 0
        for bucket in self._buckets:
            num_owned = share_lengths(bucket, group.world_size)[group.rank]
            owned = slice(first_owned, first_owned + num_owned)
            residuals = self._residual[bucket], self._owned_residual[owned]
            self._sum_bucket_(group, vector[bucket], residuals, generator=generator)
            first_owned = owned.stop
        self._seconds_in_group += time.perf_counter() - start

    def _sum_bucket_(
        self,
        group: PayloadCommunicator,
        vector: Tensor,
        residuals: tuple[Tensor, Tensor],
        *,
        generator: torch.Generator,
    ) -> None:
        (residual, owned_residual), rank, num_members = residuals, group.rank, group.world_size
        if self._remembers:
            vector += residual
        shares = vector.tensor_split(num_members)
        # The first share is the longest; shorter ones leave the end of their slot empty.
        slot_bytes = self.compressor.num_bytes(shares[0].numel())
        outgoing = torch.zeros((num_members, slot_bytes), dtype=torch.uint8, device=vector.device)
        for other, share in enumerate(shares):
            if other != rank:
                self._encode_into(outgoing[other], share, generator)
        start = time.perf_counter()
        incoming = group.all_to_all(outgoing)
        self.seconds_waited += time.perf_counter() - start
        total = torch.zeros_like(shares[rank])
        for other in range(num_members):
            total += shares[rank] if other == rank else self._decode(incoming[other], total)
        if self._remembers:
            total += owned_residual
        own = torch.zeros_like(outgoing[rank])
        self._encode_into(own, total, generator)
        told = torch.empty_like(outgoing)
        start = time.perf_counter()
        group.all_gather_(told.view(-1), own)
        self.seconds_waited += time.perf_counter() - start
        if self._remembers:
            torch.sub(total, self._decode(own, total), out=owned_residual)
            for other, (share, owed) in enumerate(zip(shares, residual.tensor_split(num_members), strict=True)):
                if other != rank:  # its own share did not cross the wire
                    torch.sub(share, self._decode(outgoing[other], share), out=owed)
        for share, payload in zip(shares, told, strict=True):
            share.copy_(self._decode(payload, share))

    def _encode_into(self, slot: Tensor, share: Tensor, generator: torch.Generator) -> None:
        payload = self.compressor.encode(share, generator=generator)
        size = self.compressor.num_bytes(share.numel())
        require(
            payload.shape == (size,),
            f"{self.compressor!r} made a payload of shape {list(payload.shape)} where its num_bytes({share.numel()}) says "
            f"{size}; the two must agree.",
        )
        slot[:size].copy_(payload)

    def _decode(self, slot: Tensor, like: Tensor) -> Tensor:
        num_values = like.numel()
        return self.compressor.decode(slot[: self.compressor.num_bytes(num_values)], num_values)
