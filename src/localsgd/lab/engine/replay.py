"""Work that is captured in a CUDA graph once and replayed from then on, and its branches on parallel streams."""

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol, final

import torch

from localsgd.errors import ArgumentError

__all__ = ["Branches", "MakeReplay", "Measure", "Measured", "Piece", "Replay", "Replayed", "count_streams"]

_MOST_STREAMS = 16
_RESERVE = 1.25

Piece = Callable[[], None]
"""Work without arguments and result: always the same operations on the same tensors."""


class Measured(NamedTuple):
    """What a piece of work did to the memory of its device, in bytes."""

    passing: int
    """What it took at its peak and gave back."""
    lasting: int
    """What it took and kept: gradients, or what an optimizer makes in its first step."""
    free: int
    """What could be had after it."""


Measure = Callable[[Piece], Measured]
"""Runs a piece of work and measures it."""


class Replayed(Protocol):
    """Work that need not be done by Python each time."""

    def __call__(self) -> None:
        """Do it."""
        ...

    def drop(self) -> None:
        """Forget how, since it may have changed."""
        ...


MakeReplay = Callable[[Piece, torch.device], Replayed]
"""Says how to repeat a piece of work."""


@final
class Replay:
    """Calls a function; on a CUDA device its second call is captured, and every later one is a replay of that.

    The first call runs as it is: it leaves behind what is made once (momentum buffers, plans of cuDNN), and nothing has to
    be undone afterwards. It runs on the stream that is captured later, since libraries and autograd keep things by the
    stream. On other devices every call runs as it is, through the same code.

    Args:
        function: What to call. What changes from call to call, it reads from tensors that never move.
        device: Where it computes.
    """

    def __init__(self, function: Piece, device: torch.device) -> None:
        self._function, self._device = function, device
        # Of its own: to give one graph back takes cuBLAS's memory of its stream from every other graph captured on that.
        self._stream = _make_stream(device) if device.type == "cuda" else None
        self._has_run = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work, or enqueue it.

        Raises:
            ArgumentError: If the device has too little memory for the graph.
        """
        if self._graph is None and self._stream is not None and self._has_run:
            self._graph = self._capture(self._stream)  # launches nothing: the replay below is this call's work
        if self._graph is not None:
            self._graph.replay()
            return
        if self._stream is None:
            self._function()
        else:
            with _beside([self._stream], self._device), torch.cuda.stream(self._stream):
                self._function()
        self._has_run = True

    def drop(self) -> None:
        """Forget what was captured, and give its memory back."""
        if self._graph is not None:
            torch.cuda.synchronize(self._device)  # a replay may still be under way
        self._graph, self._has_run = None, False

    def _capture(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # The outer context puts the current stream back even where the end of a broken capture raises. What other threads do
        # meanwhile (NCCL's watchdog asks for events) is none of the graph's business.
        with _without_garbage_collection(), torch.cuda.stream(torch.cuda.current_stream(self._device)):
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._function()
            except torch.OutOfMemoryError as error:
                raise ArgumentError(
                    f"engine='graph' ran out of memory while it captured a step ({error}); use engine=plain, or a smaller "
                    "batch_size."
                ) from error
        return graph


@final
class Branches:
    """Runs pieces of work that do not depend on each other: on parallel CUDA streams, or else one after another.

    Args:
        device: Where they compute.
        measure: Runs the first piece of all and measures it, before anything is captured. Default: on a CUDA device what its
            allocator says; elsewhere nothing is measured.
    """

    def __init__(self, device: torch.device, *, measure: Measure | None = None) -> None:
        self._device = device
        is_cuda = device.type == "cuda"
        self._measure = partial(_measure, device=device) if measure is None and is_cuda else measure
        self._num_streams = 0
        self._streams: list[torch.cuda.Stream] = [_make_stream(device)] if is_cuda else []

    def run(self, pieces: Sequence[Piece], *, kept_bytes: int = 0, resident_bytes: int = 0) -> None:
        """Run all pieces; what is launched afterwards waits for them. A piece is on the same stream in every call.

        Args:
            pieces: What to run, alike in what they need.
            kept_bytes: Memory that each piece will keep. What the first one keeps beyond that belongs to its stream: cuBLAS
                works in such memory.
            resident_bytes: Memory that will be taken for good besides.

        Raises:
            ArgumentError: If the device has too little memory for a single piece. This is known after the first one, which
                is measured, before anything is captured.
        """
        begin = 0
        if self._num_streams == 0 and self._measure is not None:
            found = self._run_first(self._measure, pieces[0])
            lasting = kept_bytes * (len(pieces) - 1) + resident_bytes
            own = found.passing + max(found.lasting - kept_bytes, 0)
            self._num_streams = count_streams(len(pieces), own, free_bytes=found.free - lasting, lasting_bytes=lasting)
            begin = 1
            if self._streams:
                self._streams += [_make_stream(self._device) for _ in range(self._num_streams - 1)]
        if not self._streams:
            for piece in pieces[begin:]:
                piece()
            return
        with _beside(self._streams, self._device):
            for index in range(begin, len(pieces)):
                with torch.cuda.stream(self._streams[index % len(self._streams)]):
                    pieces[index]()

    def _run_first(self, measure: Measure, piece: Piece) -> Measured:
        side = torch.cuda.stream(self._streams[0]) if self._streams else nullcontext()
        with _beside(self._streams, self._device), side:
            return measure(piece)


def count_streams(num_pieces: int, piece_bytes: int, *, free_bytes: int, lasting_bytes: int = 0) -> int:
    """Predict how many pieces of work may run at once: what runs on one stream shares its memory.

    Args:
        num_pieces: How many there are, >= 1.
        piece_bytes: What one needs at its peak and gives back, as measured.
        free_bytes: What the device has left for that.
        lasting_bytes: What is taken for good besides, which ``free_bytes`` is without already; for the message.

    Returns:
        Number of streams, in [1, 16].

    Raises:
        ArgumentError: If not even one fits.

    Example:
        >>> count_streams(64, 2**30, free_bytes=10 * 2**30)
        8
    """
    fitting = int(free_bytes / (_RESERVE * max(piece_bytes, 1)))
    if fitting < 1:
        lasting = (
            f", after {lasting_bytes / 2**30:.2f} GiB for gradients and optimizers of all," if lasting_bytes else ""
        )
        raise ArgumentError(
            f"engine='graph' needs {_RESERVE * piece_bytes / 2**30:.2f} GiB of memory for the step of one worker, and"
            f"{lasting} {max(free_bytes, 0) / 2**30:.2f} GiB are free; use engine=plain, or a smaller batch_size."
        )
    return min(num_pieces, fitting, _MOST_STREAMS)


@contextmanager
def _beside(streams: Sequence[torch.cuda.Stream], device: torch.device) -> Iterator[None]:
    """Let streams begin after what the current one has launched, and that one go on after them: also after an error."""
    mains = [torch.cuda.current_stream(device)] if streams else []
    for main, stream in itertools.product(mains, streams):
        stream.wait_stream(main)
    try:
        yield
    finally:
        for main, stream in itertools.product(mains, streams):
            main.wait_stream(stream)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and none until the end: the destructor of an older graph, say, is forbidden within a capture."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _make_stream(device: torch.device) -> torch.cuda.Stream:
    stream: Any = torch.cuda.Stream  # torch has no annotation for its constructor
    made: torch.cuda.Stream = stream(device)
    return made


def _measure(piece: Piece, *, device: torch.device) -> Measured:
    """Run a piece on a device that does nothing else."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    piece()
    torch.cuda.synchronize(device)
    after = torch.cuda.memory_allocated(device)
    cached = torch.cuda.memory_reserved(device) - after
    return Measured(
        passing=torch.cuda.max_memory_allocated(device) - after,
        lasting=after - before,
        free=torch.cuda.mem_get_info(device)[0] + cached,
    )
