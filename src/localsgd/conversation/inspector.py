"""Looks at what an exchange told, and raises the same error on every process where something is wrong."""

from typing import Literal, final

from localsgd.averaging.averager import Averager, Offender
from localsgd.averaging.facts import Facts
from localsgd.buffers.arithmetic import squared_norm
from localsgd.buffers.flat import FlatRows, describe_broken
from localsgd.errors import BrokenViewError, DisagreementError, NonFiniteError
from localsgd.topology import Topology

__all__ = ["Inspector", "NonFinitePolicy"]

NonFinitePolicy = Literal["raise", "exclude"]
_CALLS = ("gradients", "parameters", "flush", "manual", "averaged()")


@final
class Inspector:
    """Judges exchanges between the workers of one run."""

    def __init__(self, rows: FlatRows, topology: Topology, *, non_finite: NonFinitePolicy, counts_steps: bool) -> None:
        """Prepare.

        Args:
            rows: The workers of this process.
            topology: Who averages with whom.
            non_finite: What to do with a worker that is not finite.
            counts_steps: Whether all workers take the same number of steps, so that they can be compared.
        """
        self._rows, self._topology = rows, topology
        self._non_finite, self._counts_steps = non_finite, counts_steps

    def tag(self, call: str, step: int) -> int:
        """Fold what a process is about to do into a number so small that its square is summed exactly in float32.

        Args:
            call: What it is about to do.
            step: Steps its workers have taken.

        Returns:
            A number in [0, 61); 0 where processes take different numbers of steps.
        """
        return (step * len(_CALLS) + _CALLS.index(call)) % 61 if self._counts_steps else 0

    def require_same_call(self, block: Averager, total: Facts, *, kind: str, step: int) -> None:
        """Notice processes that met in one collective with different intentions; all of them see the same sums.

        Args:
            block: What averaged.
            total: Facts summed over the block.
            kind: What this process meant to do.
            step: Steps its workers have taken.

        Raises:
            DisagreementError: If they differ; on every process.
        """
        if self.is_same_call(block, total):
            return
        told = block.communicator.gather(f"{kind} at step {step}")
        calls = "; ".join(f"process {rank}: {what}" for rank, what in enumerate(told))
        raise DisagreementError(
            f"processes met in one exchange with different intentions ({calls}). All must take the same number of steps, "
            "resume from the same checkpoint, and call sync(), finish() and averaged() together."
        )

    def is_same_call(self, block: Averager, total: Facts) -> bool:
        """Say whether `require_same_call` will find nothing: the same on every process.

        Args:
            block: What averaged.
            total: Facts summed over the block.

        Returns:
            Whether all processes meant to do the same.
        """
        return block.num_processes * total.tag_squared == total.tag**2

    def may_average(self, block: Averager, total: Facts) -> bool:
        """Say whether `judge` will find nothing: the same on every process.

        Args:
            block: What averaged.
            total: Facts summed over the block.

        Returns:
            Whether all workers may enter the mean, or those that may do without the others.
        """
        if total.finite_workers == block.num_workers:
            return True
        return total.finite_workers > 0 and not total.broken_workers and self._non_finite == "exclude"

    def require_replicas(self, block: Averager) -> None:
        """Look whether workers that step with the same gradients still have the same parameters.

        Args:
            block: Their block.

        Raises:
            DisagreementError: If the norms of their parameters differ by more than a thousandth; on every process.

        Cost:
            One pass over the rows, and one exchange of small objects.
        """
        norms = []
        for row in block.members:
            pieces = [group.storage[row, : group.layout.num_parameters] for group in self._rows.groups]
            norms.append(block.worker.sum(sum(squared_norm(piece) for piece in pieces)) ** 0.5)
        everyone = [norm for told in block.communicator.gather(norms) for norm in told]
        if max(everyone) - min(everyone) > 1e-3 * max(everyone):
            raise DisagreementError(
                "workers of a block step together but are no replicas of each other any more: the norms of their parameters "
                f"are {everyone}. Load the same state into every worker, step all of them alike, or make them equal "
                "again with local.sync()."
            )

    def judge(
        self,
        block: Averager,
        total: Facts,
        offenders: list[Offender],
        *,
        step: int,
        level: int,
        is_averaged: bool = True,
    ) -> None:
        """Raise if a worker could not enter the mean and nobody said to go on without it.

        Every process sees the same total, so that all of them enter the second exchange, and raise, or none.

        Args:
            block: What averaged.
            total: Facts summed over the block.
            offenders: Workers of this process that were left out.
            step: Steps taken by each worker.
            level: Level of the topology.
            is_averaged: Whether the others hold their mean already; otherwise all are as they were.

        Raises:
            BrokenViewError: If a tensor no longer looks into its row.
            NonFiniteError: If a worker is not finite and the policy says so, or if none is.
        """
        if total.finite_workers == block.num_workers or self.may_average(block, total):
            return
        found, where = block.gather_offenders(offenders), f"sync at level {level} after step {step}"
        num_workers = self._topology.num_workers
        broken = [f"worker {o.worker} of {num_workers}: {describe_broken(o.name)}" for o in found if o.is_broken]
        if broken:
            raise BrokenViewError(" ".join([*broken, f"({where})"]))
        named = "; ".join(f"worker {o.worker} of {num_workers}: {o.name} is not finite" for o in found)
        rest = "the others hold the mean of the finite ones" if is_averaged else "nothing was averaged"
        rest = rest if total.finite_workers else "none is left to average"
        advice = "lower the learning rate or clip gradients (clip_norm)"
        if total.finite_workers:
            advice += ", or go on without such workers (non_finite='exclude')"
        raise NonFiniteError(f"{named} ({where}); {rest}. To mend it, {advice}.")
