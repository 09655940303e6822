"""Sends gradients while backward still computes others, and notices when that was too early."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, final

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from localsgd.buffers.arithmetic import scale_and_flag_
from localsgd.communicators.protocol import OverlappingCommunicator
from localsgd.gradients.buckets import Bucket, GradientVector

__all__ = ["GradientPipeline"]

_AUDIT_ROUNDS = 100
"""Rounds after which gradients are once more compared with what would have been sent."""
_MOST_PATIENCE = 1024
"""Most rounds to go without overlap before it is tried again."""
_TOLERANCE = 1e-5
"""Unscaling in two roundings instead of one is no change."""

Mode = Literal["audit", "overlap", "pause"]


@final
class _Progress:
    """How far one bucket has come in this round."""

    def __init__(self, bucket: Bucket, parameters: Sequence[Tensor]) -> None:
        self.bucket, self.parameters = bucket, parameters
        self.own = parameters[bucket.members]
        self.num_expected = self.num_missing = len(self.own)
        self.read: list[Tensor | None] = []
        self.versions: list[int] = []

    def has_sparse(self) -> bool:
        return any(parameter.grad is not None and parameter.grad.is_sparse for parameter in self.own)

    def is_unchanged(self) -> bool:
        """Whether the parameters have the gradients that were read, and nobody has written into them since."""
        present = [parameter.grad for parameter in self.own]
        is_same = all(mine is other for mine, other in zip(present, self.read, strict=True))
        return is_same and _versions(present) == self.versions

    def reset(self) -> None:
        self.num_missing = self.num_expected
        self.read, self.versions = [], []


@final
class GradientPipeline:
    """Exchanges all buckets but the last of each group as soon as backward has filled them, in an order that never varies.

    When a bucket is filled differs between processes, and some gradients may never come. So bucket i is only started after
    bucket i - 1, in a group of its own (`OverlappingCommunicator.twin`), and `start_rest` starts what remains: every process
    starts the same exchanges in the same order, whatever else it exchanges in between.

    A hook cannot know whether the gradient that it sees is the final one: another backward may add to it, the loop may clip
    it. Therefore gradients stay where they are, copies are sent, and `note_changes` compares identity and version of each
    gradient with what was sent. Changes that bypass versions (``p.grad.data.mul_(...)``, an all-reduce of the loop's own)
    are found by audits: in the first round, and every hundredth, nothing is sent early, but the copies made in backward are
    compared with the gradients that reach the step. Where gradients change, rounds are not overlapped for a while.

    Attributes:
        num_started: Buckets under way.
        has_unnoticed_changes: Whether this round's audit found changes that versions do not show, after rounds that
            relied on versions.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        parameters: Sequence[Sequence[Tensor]],
        communicator: OverlappingCommunicator,
        *,
        share: float,
    ) -> None:
        """Prepare; nothing is hooked yet.

        Args:
            buckets: The buckets to send ahead, in the order in which they are sent.
            parameters: The parameters of each group, in the order of its layout.
            communicator: The processes.
            share: What a worker's gradient counts in the mean.
        """
        self._progress = [_Progress(bucket, parameters[bucket.group]) for bucket in buckets]
        self._communicator, self._share = communicator, share
        self._twin: OverlappingCommunicator | None = None
        self._vectors: Sequence[GradientVector] = ()
        self._handles: list[RemovableHandle] = []
        weakref.finalize(self, _remove_all, self._handles)
        self._waits: list[Callable[[], None]] = []
        self._scaler: torch.amp.GradScaler | None = None
        self._scales: dict[torch.device, Tensor] = {}
        self._flags: dict[torch.device, Tensor] = {}
        self._fired: set[int] = set()
        self._is_held = self._is_changed = self._is_surprised = False
        self._mode: Mode = "audit"
        self._patience, self._num_paused, self._num_rounds, self._num_read = 1, 0, 0, 0
        self.num_started = 0
        self.has_unnoticed_changes = False

    def hook(self, vectors: Sequence[GradientVector], scaler: torch.amp.GradScaler | None) -> None:
        """Look out for the gradients of the coming step.

        Args:
            vectors: Where gradients lie, one a group; the same as before while buckets are under way.
            scaler: What scales the coming step's loss, as far as known.

        Cost:
            One new group of processes at the first call, which every process must make.
        """
        if self._twin is None:
            self._twin = self._communicator.twin()
        self._vectors, self._scaler = vectors, _if_enabled(scaler)
        if self._handles:
            return
        for index, progress in enumerate(self._progress):
            hook = _make_hook(weakref.ref(self), index)
            for parameter in progress.own:
                register: Callable[..., RemovableHandle] = parameter.register_post_accumulate_grad_hook
                self._handles.append(register(hook))

    def unhook(self) -> None:
        """Look out no longer; what is under way stays so, until the next round that is concluded."""
        _remove_all(self._handles)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let gradients pass inside a ``with`` block: they are not the final ones."""
        was_held, self._is_held = self._is_held, True
        try:
            yield
        finally:
            self._is_held = was_held

    def note_changes(self, scaler: torch.amp.GradScaler | None) -> None:
        """Look whether gradients are still those that were read; to be called before they are unscaled.

        Args:
            scaler: What scaled the loss of this step.
        """
        self._is_surprised = self._num_read > 0 and _if_enabled(scaler) is not self._scaler
        self._is_changed = not all(progress.is_unchanged() for progress in self._progress[: self._num_read])

    @property
    def is_spoiled(self) -> bool:
        """Whether something is under way that is not finite, or no longer what the parameters have."""
        if not self.num_started:
            return False
        return self._is_changed or self._is_surprised or any(bool(flag) for flag in self._flags.values())

    def unread(self, group: int) -> tuple[slice, int]:
        """Say which gradients of a group have to be read at the step, since their buckets are not under way.

        Args:
            group: Number of the group.

        Returns:
            The parameters by their numbers in the layout, and the first element of the vector that belongs to them.
        """
        members, begin = slice(None), 0
        for progress in self._progress[: self.num_started]:
            if progress.bucket.group == group:
                members, begin = slice(0, progress.bucket.members.start), progress.bucket.region.stop
        return members, begin

    def copies(self) -> list[Tensor]:
        """Copy what was read during backward without being sent, as in an audit; usually there is nothing."""
        return [self._region(progress).clone() for progress in self._progress[self.num_started : self._num_read]]

    def audit(self, copies: Sequence[Tensor]) -> None:
        """Compare what was read during backward with what is sent.

        Args:
            copies: What `copies` returned before all gradients were read anew.
        """
        for copy, progress in zip(copies, self._progress, strict=False):
            now = self._region(progress)
            error, size = (now - copy).abs().max(), now.abs().max()
            if not bool(error.isfinite()):
                self._is_surprised = True  # nothing can be said; the exchange will tell about it
            if not bool(error <= _TOLERANCE * size) and not self._is_changed and not self._is_surprised:
                self._is_changed = True
                self.has_unnoticed_changes = self._num_rounds > 0

    def start_rest(self, vectors: Sequence[GradientVector]) -> None:
        """Start the buckets that backward has not started; their gradients have been read.

        Args:
            vectors: Where gradients lie, one a group.

        Raises:
            SyncError: If an exchange cannot be started.

        Cost:
            One new group of processes at the first call, unless `hook` has made it. Every process must call this.
        """
        if self._twin is None:
            self._twin = self._communicator.twin()
        self._vectors = vectors
        while self.num_started < len(self._progress):
            self._start(self._twin)

    def wait(self) -> None:
        """Wait until all buckets are summed, and get ready for the next round.

        Raises:
            SyncError: If an exchange failed.
        """
        for wait in self._waits:
            wait()
        self._choose_mode()
        self._waits.clear()
        self._scales.clear()
        self._flags.clear()
        self._num_read = self.num_started = 0
        self._is_changed = self._is_surprised = self.has_unnoticed_changes = False
        for progress in self._progress:
            progress.reset()

    def note(self, index: int, parameter: Tensor) -> None:
        """Take notice of a gradient; the hooks call this.

        Args:
            index: Number of the bucket in which it lies.
            parameter: Whose gradient it is.
        """
        if self._is_held or self._mode == "pause":
            return
        if self._mode == "audit":
            self._fired.add(id(parameter))
        progress = self._progress[index]
        progress.num_missing -= 1
        if progress.num_missing <= 0:
            self._advance()

    def _advance(self) -> None:
        """Read the buckets that are complete, in their order, and send them."""
        while self._num_read < len(self._progress) and self._twin is not None:
            progress = self._progress[self._num_read]
            if progress.num_missing > 0 or progress.has_sparse():  # of which the step will complain
                return
            vector = self._vectors[progress.bucket.group]
            progress.read = vector.read_(progress.parameters, progress.bucket.members)
            progress.versions = _versions(progress.read)
            region = self._region(progress)
            scale_and_flag_(region, self._factor(region), found=self._flag(region))
            self._num_read += 1
            if self._mode == "overlap":
                self._start(self._twin)

    def _start(self, twin: OverlappingCommunicator) -> None:
        self._waits.append(twin.start_all_reduce_(self._region(self._progress[self.num_started])))
        self.num_started += 1

    def _region(self, progress: _Progress) -> Tensor:
        return self._vectors[progress.bucket.group].values[progress.bucket.region]

    def _factor(self, region: Tensor) -> float | Tensor:
        """Give what a scaled gradient is to be multiplied with, without waiting for the device."""
        if self._scaler is None:
            return self._share
        if region.device not in self._scales:
            one = torch.ones((), dtype=region.dtype, device=region.device)
            self._scales[region.device] = self._share / self._scaler.scale(one)
        return self._scales[region.device]

    def _flag(self, region: Tensor) -> Tensor:
        if region.device not in self._flags:
            self._flags[region.device] = torch.zeros((), dtype=torch.float32, device=region.device)
        return self._flags[region.device]

    def _choose_mode(self) -> None:
        """Choose how to treat the next round, from what was seen in this one; processes need not choose alike."""
        if self._mode == "pause":
            self._num_paused += 1
            self._mode = "audit" if self._num_paused >= self._patience else "pause"
        elif self._is_surprised:
            self._mode, self._num_rounds = "audit", 0
        elif self._is_changed:
            self._mode, self._num_rounds, self._num_paused = "pause", 0, 0
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        elif self._mode == "audit":
            if self._num_read:
                self._mode = "overlap"
            for progress in self._progress if self._fired else ():
                progress.num_expected = sum(id(parameter) in self._fired for parameter in progress.own)
        else:
            self._num_rounds += 1
            self._mode = "overlap" if self._num_rounds % _AUDIT_ROUNDS else "audit"


def _make_hook(pipeline: "weakref.ref[GradientPipeline]", index: int) -> Callable[[Tensor], None]:
    """Make what a parameter calls; parameters outlive the pipeline, and must not keep it alive."""

    def hook(parameter: Tensor) -> None:
        own = pipeline()
        if own is not None:
            own.note(index, parameter)

    return hook


def _remove_all(handles: list[RemovableHandle]) -> None:
    while handles:
        handles.pop().remove()


def _versions(gradients: Sequence[Tensor | None]) -> list[int]:
    # What autograd itself relies on to notice writes into tensors that it has saved; it has no public name.
    return [0 if gradient is None else gradient._version for gradient in gradients]  # noqa: SLF001 - see above


def _if_enabled(scaler: torch.amp.GradScaler | None) -> torch.amp.GradScaler | None:
    return scaler if scaler is not None and scaler.is_enabled() else None
