"""Gradients averaged over all workers before the optimizers step: how a round of one step becomes mini-batch SGD."""

import time
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor
from torch.optim import Optimizer

from localsgd.averaging.averager import Averager, Offender
from localsgd.averaging.facts import Facts
from localsgd.buffers.arithmetic import is_finite, scale_and_check_, scale_and_flag_
from localsgd.communicators.protocol import OverlappingCommunicator
from localsgd.gradients.buckets import BUCKET_BYTES, FIRST_BUCKET_BYTES, GradientVector, cut_buckets
from localsgd.gradients.pipeline import GradientPipeline
from localsgd.gradients.shards import ShardGradients

__all__ = ["GradientMean", "unscale_"]


@final
class GradientMean:
    """Collects the gradients of a block's rows, averages them over the block, and hands the mean to every row.

    A vector has the regions of a row (gradients in the place of parameters, slots, module buffers), followed by one
    element a parameter that counts the workers which had a gradient for it. So one collective carries gradients,
    facts, BatchNorm statistics and the list of parameters in use. With a single row a process, and several processes, the
    gradients of the last layers are sent ahead in buckets while backward still runs; the rest of each vector carries all
    that is known only at the step.

    Attributes:
        offenders: Rows of this process whose gradients were left out, since they are not finite.
        pipeline: What sends gradients ahead; ``None`` where nothing can be.

    Cost:
        One vector a group, P values, allocated at the first use; two with several rows.
    """

    def __init__(self, averager: Averager, *, overlaps: bool) -> None:
        """Prepare to average.

        Args:
            averager: The workers and their communicator.
            overlaps: Whether to send gradients ahead where that is possible.
        """
        self._averager = averager
        self._groups = averager.rows.flat_groups
        self._several = averager.rows.num_rows > 1
        self._parameters = {row: [group.parameters(row) for group in self._groups] for row in averager.members}
        self._mean: list[GradientVector] = []
        self._scratch: list[GradientVector] = []
        self._shares: list[Tensor] = []
        self._begins = [0] * len(self._groups)
        self._num_exchanges = 1
        self.offenders: list[Offender] = []
        self._shards = ShardGradients(averager.rows.shards, device=self._groups[0].layout.device)
        self.pipeline: GradientPipeline | None = None
        own = averager.communicator
        if overlaps and not self._several and isinstance(own, OverlappingCommunicator) and own.world_size > 1:
            self._plan_pipeline(own)

    @property
    def vectors(self) -> Sequence[Tensor]:
        """The vectors that were exchanged, one a group; twice where they had to be sent once more."""
        return [*(vector.values for vector in self._mean), *self._shards.exchanged] * self._num_exchanges

    def expect(self, scaler: torch.amp.GradScaler | None) -> None:
        """Send the gradients of the coming step ahead, if there is something to gain by it.

        Args:
            scaler: What scales the coming step's loss, as far as known.
        """
        if self.pipeline is not None:
            self._allocate()
            self.pipeline.hook(self._mean, scaler)

    def stage(self, row: int) -> None:
        """Add the gradients of a row to this process's share of the mean.

        Args:
            row: Number of the row; the rows come in order. With several rows the parameters' ``grad`` become ``None``,
                so that only one row's gradients exist at a time.

        Raises:
            ArgumentError: If a gradient is sparse.
        """
        is_first = row == self._averager.members[0]
        if is_first:
            self._begin()
        copies = [] if self.pipeline is None else self.pipeline.copies()
        target = self._mean if is_first else self._scratch
        complaint = self._averager.find_broken(row)
        bad = self._read(row, target)
        bad_buffer = self._averager.find_bad_buffer(row)
        if self.pipeline is not None:
            self.pipeline.audit(copies)
        if complaint is None and (bad is not None or bad_buffer is not None):
            named = f"the gradient of {bad}" if bad is not None else str(bad_buffer)
            complaint = self._averager.offender(row, named)
        offender = self._averager.worker.agree(complaint)
        if offender is not None:
            self.offenders.append(offender)
            self._shards.drop_()
            if is_first and not (self.pipeline and self.pipeline.num_started):
                for vector in self._mean:
                    vector.gradients.zero_()
            return
        if not is_first:
            for mean, vector in zip(self._mean, target, strict=True):
                mean.gradients.add_(vector.gradients)
        self._averager.add_buffers_([vector.values for vector in self._mean], row)

    def stage_rows_(self, found: Tensor) -> None:
        """Add up the gradients of all rows without waiting for the device, so that a CUDA graph can do it again.

        Every parameter must have a dense gradient; `stage` finds out. The gradients stay with the parameters.

        Args:
            found: One flag for each row of the process, float32, shape (V,), on the device. Becomes 1 where a gradient or a
                module buffer is not finite, else stays. What is staged is worthless then; `stage` each row instead.
        """
        self._begin()
        for row in self._averager.members:
            is_first = row == self._averager.members[0]
            target = self._mean if is_first else self._scratch
            for index, (vector, parameters) in enumerate(zip(target, self._parameters[row], strict=True)):
                vector.read_(parameters, slice(None))
                self._mean[index].counts.add_(1)
                scale_and_flag_(vector.gradients, self._shares[index], found=found[row])
                if not is_first:
                    self._mean[index].gradients.add_(vector.gradients)
            for group in self._groups if self._averager.buffers != "local" else ():
                if group.layout.num_buffers:
                    scale_and_flag_(group.storage[row, group.layout.buffer_region], self._shares[-1], found=found[row])
            self._averager.add_buffers_([vector.values for vector in self._mean], row)

    def settle_(self) -> None:
        """Do with what is staged all that an exchange would, where this process is the only one."""
        self._averager.spread_buffers_([vector.values for vector in self._mean])

    @torch.no_grad()
    def load_rows_(self) -> None:
        """Give all rows the mean gradient: the same memory for all of them, which optimizers must not change."""
        for index, (mean, group) in enumerate(zip(self._mean, self._groups, strict=True)):
            gradients = [view.to(group.layout.dtype) for view in mean.views]
            for row in self._averager.members:
                for parameter, gradient in zip(self._parameters[row][index], gradients, strict=True):
                    parameter.grad = gradient

    def exchange(self, tell: Callable[[list[Offender]], Facts], require_same_call: Callable[[Facts], None]) -> Facts:
        """Average over the block; once more if a process had sent gradients ahead that changed afterwards.

        Args:
            tell: Gives this process's facts, from the rows that were left out.
            require_same_call: Looks at what all processes told, and raises if some of them mean to do something else.

        Returns:
            The facts summed over all processes.

        Cost:
            One all-reduce a group, and one for each bucket that is sent ahead. Every process must call this.
        """
        total = self._exchange_once(tell, require_same_call)
        self._num_exchanges = 1
        if total.spoiled:
            for row in self._averager.members:
                self.stage(row)
            total = self._exchange_once(tell, require_same_call)._replace(unnoticed=total.unnoticed)
            self._num_exchanges = 2
        values = [vector.values for vector in self._mean]
        self._averager.make_up_([*values, *self._shards.vectors], total)
        self._averager.spread_buffers_(values)
        return total

    @torch.no_grad()
    def load(self, row: int) -> None:
        """Put the mean gradient into the parameters of a row; ``None`` where no worker had one.

        Args:
            row: Number of the row. With several rows the gradients are views into a vector shared by the rows: call
                `release` after the optimizer has stepped.
        """
        self._shards.settle_()
        for index, (mean, parameters) in enumerate(zip(self._mean, self._parameters[row], strict=True)):
            source = mean
            if self._several:
                source = self._scratch[index]
                source.gradients.copy_(mean.gradients)
            present = [parameter.grad for parameter in parameters]
            gradients = [gradient for gradient in present if gradient is not None]
            counts = mean.counts.tolist()
            if gradients and all(counts) and len(gradients) == len(parameters):
                torch._foreach_copy_(gradients, source.views)
                continue
            for parameter, view, count in zip(parameters, source.views, counts, strict=True):
                if count == 0:
                    parameter.grad = None
                elif parameter.grad is not None:
                    parameter.grad.copy_(view)
                else:
                    parameter.grad = view.to(parameter.dtype, copy=not self._several)

    def release(self, row: int) -> None:
        """Take the shared gradients away from a row again; does nothing for a single row.

        Args:
            row: Number of the row.
        """
        if self._several:
            for parameters in self._parameters[row]:
                for parameter in parameters:
                    parameter.grad = None

    def discard(self) -> None:
        """Give the memory back, unless some of it is under way; it is taken again if it is needed again."""
        if self.pipeline is not None:
            self.pipeline.unhook()
            if self.pipeline.num_started:
                return
        self._mean, self._scratch = [], []

    def _plan_pipeline(self, communicator: OverlappingCommunicator) -> None:
        sizes = {"first_bytes": FIRST_BUCKET_BYTES, "bucket_bytes": BUCKET_BYTES}
        buckets = [cut_buckets(group.layout, group=index, **sizes) for index, group in enumerate(self._groups)]
        self._begins = [own[-1].region.start for own in buckets]
        ahead = [bucket for own in buckets for bucket in own[:-1]]
        if ahead:
            parameters = self._parameters[self._averager.members[0]]
            self.pipeline = GradientPipeline(ahead, parameters, communicator, share=1 / self._averager.num_workers)

    def _begin(self) -> None:
        self.offenders = []
        self._allocate()
        for vector in self._mean:
            vector.tail.zero_()

    def _allocate(self) -> None:
        if not self._mean:
            self._mean = [GradientVector(group) for group in self._groups]
            self._scratch = [GradientVector(group) for group in self._groups] if self._several else []
            # Of their own: a CUDA graph keeps addresses, and the cache behind numbers may forget its tensors.
            share = 1 / self._averager.num_workers
            self._shares = [torch.full_like(vector.values[0], share) for vector in self._mean]
            self._shares.append(torch.ones((), device=self._groups[0].layout.device))

    def _read(self, row: int, target: Sequence[GradientVector]) -> str | None:
        """Copy, scale and count the gradients of a row that are not under way; give the first that is not finite."""
        bad = None
        for index, (vector, parameters) in enumerate(zip(target, self._parameters[row], strict=True)):
            members, begin = (slice(None), 0) if self.pipeline is None else self.pipeline.unread(index)
            vector.read_(parameters, members)
            is_used = [parameter.grad is not None for parameter in parameters]
            if all(is_used):
                self._mean[index].counts.add_(1)
            else:
                self._mean[index].counts.add_(torch.tensor(is_used, device=vector.counts.device))
            if not scale_and_check_(vector.gradients[begin:], 1 / self._averager.num_workers):
                bad = bad or _first_bad(vector)
            if self._several:
                for parameter in parameters:
                    parameter.grad = None
        bad_shard = self._shards.read_()
        return bad or bad_shard

    def _exchange_once(
        self, tell: Callable[[list[Offender]], Facts], require_same_call: Callable[[Facts], None]
    ) -> Facts:
        values, facts = [vector.values for vector in self._mean], tell(self.offenders)
        if self.pipeline is not None:
            spoiled, unnoticed = self.pipeline.is_spoiled, self.pipeline.has_unnoticed_changes
            facts = facts._replace(spoiled=int(spoiled or (self.offenders != [] and self.pipeline.num_started > 0)))
            facts = facts._replace(unnoticed=int(unnoticed))
            self.pipeline.start_rest(self._mean)
        if self._shards.vectors:
            slots = values[0][self._groups[0].layout.slots]
            flat = [*values, self._shards.counts]
            total = self._averager.sum_shards_(flat, self._shards.vectors, facts, slots=slots)
        else:
            total = self._averager.sum_(values, facts, begins=self._begins)
        # Who means to do something else does not take part in what was sent ahead: ask before waiting for it.
        require_same_call(total)
        if self.pipeline is not None:
            start = time.perf_counter()
            self.pipeline.wait()
            self._averager.seconds_waited += time.perf_counter() - start
        return total


def unscale_(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> None:
    """Unscale gradients, unless the loop has already done so in order to clip them.

    Args:
        scaler: What scaled the loss.
        optimizer: Whose gradients to unscale.

    Raises:
        RuntimeError: What the scaler raises for any other reason.
    """
    try:
        scaler.unscale_(optimizer)
    except RuntimeError as error:
        if "unscale_() has already been called" not in str(error):
            raise


def _first_bad(vector: GradientVector) -> str:
    bad = (e.name for e in vector.entries if not is_finite(vector.values[e.offset : e.offset + e.num_elements]))
    return next(bad, "a parameter")
