"""Processes that exchange vectors through torch.distributed (Gloo, NCCL, or whatever the group uses)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

# The first optimizer of a process imports this. Where that happens after init_process_group, the process group survives
# destroy_process_group, and a Gloo thread that is still awake when Python exits now and then aborts the process.
import torch
import torch._dynamo  # noqa: F401 -- imported for its side effect, see above
import torch.distributed as dist
from torch import Tensor

from localsgd._checks import require
from localsgd.errors import SyncError

__all__ = ["Processes", "ring_bytes"]


def ring_bytes(payload_bytes: int, num_members: int) -> int:
    """Say how much each member of a ring all-reduce sends.

    Args:
        payload_bytes: Size of the vector.
        num_members: Members of the ring, >= 1.

    Returns:
        ``2 (n - 1) / n`` times the payload, rounded up to whole bytes: every member passes on each of the other members'
        shares once while summing and once while gathering. The least any all-reduce can do.
    """
    return -(-2 * (num_members - 1) * payload_bytes // num_members)


_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Its name since torch 2.13, which warns of the one before."""


_FAILURES = (RuntimeError, ValueError)
"""What torch raises when an exchange fails, and when the group has been destroyed."""


@final
class Processes:
    """The processes of a torch.distributed group.

    Attributes:
        rank: Number of this process in the group.
        world_size: Number of processes in the group.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """Join a group.

        Args:
            group: The group; default the whole world. This process must be a member.

        Raises:
            ArgumentError: If torch.distributed is not initialised, or this process is not in the group.
        """
        require(
            dist.is_available() and dist.is_initialized(),
            "torch.distributed is not initialised; call torch.distributed.init_process_group() first "
            "(torchrun sets its environment), or use OneProcess().",
        )
        self._group = group
        self.rank = dist.get_rank(group)
        require(
            self.rank >= 0,
            "this process is not a member of the group; construct Processes on its members only.",
        )
        self.world_size = dist.get_world_size(group)
        self._sum = dist.AllreduceOptions()  # a sum, unless told otherwise
        self._sum.asyncOp = False
        self._wire_bytes = 0
        self._twins: list[Processes] = []

    @property
    def wire_bytes(self) -> int:
        """Bytes of vectors sent so far, by all-reduces as a ring sends them; headers, small objects and broadcasts not."""
        own = self._wire_bytes
        return own + sum(twin.wire_bytes for twin in self._twins) if self._twins else own

    def all_reduce_(self, vector: Tensor) -> None:
        """Replace a vector by its sum over the processes.

        Args:
            vector: Shape (n,), contiguous, floating; the same everywhere but for its values. Overwritten.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            One all-reduce; ``ring_bytes`` of the vector sent by each process. Every process must call this.
        """
        group = self._group or dist.group.WORLD
        try:
            if group is None:
                dist.all_reduce(vector)  # torch says best that nothing is initialised any more
            else:
                # What dist.all_reduce itself calls; its wrappers take as long as to sum some hundred kilobytes.
                work = group.allreduce([vector], self._sum)
                if work is not None:
                    work.wait()
        except _FAILURES as error:
            raise SyncError(_complaint(f"an all-reduce between {self.world_size} processes", error)) from error
        self._wire_bytes += ring_bytes(vector.numel() * vector.element_size(), self.world_size)

    def start_all_reduce_(self, vector: Tensor) -> Callable[[], None]:
        """Begin to replace a vector by its sum over the processes.

        Args:
            vector: As for `all_reduce_`; not to be touched before the result is usable.

        Returns:
            A function that returns when the result is usable (on an accelerator: to what is queued next), and raises
            SyncError if the exchange fails or times out.

        Raises:
            SyncError: If it cannot be started.

        Cost:
            One all-reduce, while this process computes. Every process must call this.
        """
        what = f"an all-reduce between {self.world_size} processes"
        with _translated(what):
            work = dist.all_reduce(vector, op=dist.ReduceOp.SUM, group=self._group, async_op=True)

        def wait() -> None:
            with _translated(what):
                work.wait()
            self._wire_bytes += ring_bytes(vector.numel() * vector.element_size(), self.world_size)

        return wait

    def broadcast_(self, tensor: Tensor, *, source: int = 0) -> None:
        """Replace a tensor by that of one process.

        Args:
            tensor: Contiguous; the same everywhere but for its values. Overwritten except on ``source``.
            source: Rank in the group of the process whose values everybody takes.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            One broadcast. Every process must call this.
        """
        with _translated(f"a broadcast to {self.world_size} processes"):
            dist.broadcast(tensor, group=self._group, group_src=source)

    def gather(self, item: Any) -> list[Any]:
        """Collect a small picklable object from every process.

        Args:
            item: This process's object.

        Returns:
            The objects of all processes, by rank.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            Two all-gathers of small tensors. Every process must call this.
        """
        items: list[Any] = [None] * self.world_size
        with _translated(f"an exchange between {self.world_size} processes"):
            dist.all_gather_object(items, item, group=self._group)
        return items

    def reduce_scatter(self, vector: Tensor, *, bucket_elements: int) -> Tensor:
        """Sum a vector over the processes, this process's share of it only.

        Gloo's own reduce-scatter sends as much as a whole all-reduce, so the shares are exchanged and summed here.

        Args:
            vector: Shape (n,), contiguous, n a multiple of ``world_size``. Not modified.
            bucket_elements: Values of a share that are exchanged at a time.

        Returns:
            The sum of the ``rank``-th of ``world_size`` equal shares, shape (n / world_size,), of the vector's dtype.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            (world_size - 1) / world_size of the vector sent by each process; temporary memory of two buckets for each
            process, besides the result. Every process must call this.
        """
        shares = vector.view(self.world_size, -1)
        result = torch.empty_like(shares[0])
        for begin in range(0, shares.shape[1], bucket_elements):
            bucket = slice(begin, min(begin + bucket_elements, shares.shape[1]))
            outgoing = shares[:, bucket].contiguous()
            incoming = torch.empty_like(outgoing)
            with _translated(f"a reduce-scatter between {self.world_size} processes"):
                dist.all_to_all_single(incoming, outgoing, group=self._group)
            torch.sum(incoming, 0, out=result[bucket])
        self._wire_bytes += shares.element_size() * shares[0].numel() * (self.world_size - 1)
        return result

    def all_to_all(self, outgoing: Tensor) -> Tensor:
        """Give every process its own message.

        Args:
            outgoing: Shape (world_size, n), contiguous, any dtype; row i is for process i.

        Returns:
            Shape (world_size, n); row i is what process i had for this one.

        Raises:
            SyncError: If it fails or times out.

        Cost:
            (world_size - 1) rows sent by each process. Every process must call this.
        """
        incoming = torch.empty_like(outgoing)
        with _translated(f"an all-to-all between {self.world_size} processes"):
            dist.all_to_all_single(incoming, outgoing, group=self._group)
        self._wire_bytes += outgoing[0].numel() * outgoing.element_size() * (self.world_size - 1)
        return incoming

    def all_gather_(self, vector: Tensor, share: Tensor) -> None:
        """Fill a vector with the shares of all processes.

        Args:
            vector: Shape (n,), contiguous. Overwritten.
            share: This process's share, shape (n / world_size,).

        Raises:
            SyncError: If it fails or times out.

        Cost:
            (world_size - 1) shares sent by each process. Every process must call this.
        """
        with _translated(f"an all-gather between {self.world_size} processes"):
            _all_gather(vector, share, group=self._group)
        self._wire_bytes += share.element_size() * share.numel() * (self.world_size - 1)

    def split(self, blocks: Sequence[Sequence[int]]) -> "Processes":
        """Form groups of processes.

        Args:
            blocks: Numbers of the members of each group, each process in exactly one.

        Returns:
            The group that this process belongs to.

        Raises:
            SyncError: If the processes of a group that is not the whole world were in different numbers of groups before.

        Cost:
            One new group of torch.distributed for each of ``blocks``, with the timeout of this one. Every process must call
            this, with the same blocks.
        """
        return Processes(self._new_groups(blocks))

    def twin(self, *, counts: bool = True) -> "Processes":
        """Form a second group of the same processes, whose exchanges keep an order of their own.

        Args:
            counts: Whether what it sends counts among the ``wire_bytes`` of this one. Where another thread sends it, it
                would pass for what this group is sending meanwhile.

        Returns:
            The group, with the timeout of this one.

        Raises:
            SyncError: As for `split`.

        Cost:
            One new group of torch.distributed. Every process of this group must call this, and no other.
        """
        twin = Processes(self._new_groups([range(self.world_size)]))
        if counts:
            self._twins.append(twin)
        return twin

    def _new_groups(self, blocks: Sequence[Sequence[int]]) -> Any:
        group = self._group or dist.group.WORLD
        ranks, timeout = dist.get_process_group_ranks(group), _timeout(group)
        is_world = len(ranks) == dist.get_world_size()
        if not is_world:  # others are not here to take part, and torch then names a group by how many there were before
            counts = self.gather(len(dist.distributed_c10d._world.pg_names))  # noqa: SLF001 - nothing public tells
            if len({*counts}) > 1:
                raise SyncError(
                    f"the processes {ranks} are in {counts} groups of torch.distributed, so torch cannot form another one "
                    "for them alone; construct LocalSGD before groups that only some of them belong to."
                )
        own = None
        for block in blocks:
            if is_world or self.rank in block:
                members = [ranks[member] for member in block]
                made = dist.new_group(members, timeout=timeout, use_local_synchronization=not is_world)
                own = made if self.rank in block else own
        return own


def _timeout(group: Any) -> timedelta | None:
    """Find out when exchanges of a group give up; ``None``, torch's own default, where its backend does not tell."""
    kinds = str(dist.get_backend_config(group)).split(",")
    try:
        backend = group._get_backend(torch.device(kinds[0].partition(":")[0]))  # noqa: SLF001 - nothing public tells
    except RuntimeError:
        return None
    found = getattr(getattr(backend, "options", None), "_timeout", None)
    return found if isinstance(found, timedelta) else None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise SyncError(_complaint(what, error)) from error


def _complaint(what: str, error: Exception) -> str:
    return (
        f"{what} failed ({error}). A process may have died or stopped taking part; look at the logs of all of them, and "
        "start again from the last checkpoint."
    )
