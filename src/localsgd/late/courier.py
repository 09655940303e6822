"""A thread of its own that carries out exchanges one after the other, while this process computes."""

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from localsgd.errors import StateError, SyncError

__all__ = ["Courier"]


_FORKED = (
    "this process was forked from one whose syncs are under way, and has neither their thread nor a place among the "
    "workers; use LocalSGD in the process that constructed it."
)


@final
@dataclass(eq=False, kw_only=True)  # not frozen: it is done some time
class _Errand:
    """An exchange on its way."""

    run: Callable[[], None] | None
    """What to do; ``None`` when it is over, so that nothing is kept alive."""
    error: BaseException | None = None
    """Why it failed."""
    is_over: threading.Event = field(default_factory=threading.Event)
    """Set when it is over."""
    process: int = field(default_factory=os.getpid)
    """The process that sent it."""

    def wait(self) -> None:
        """Wait until it is over.

        Raises:
            BaseException: What it failed with.
            StateError: If this process was forked since: the thread is not here.
        """
        if self.process != os.getpid():
            raise StateError(_FORKED)
        self.is_over.wait()
        if self.error is not None:
            raise self.error


@final
class _Hand(threading.Thread):
    """The thread; it does not know who gives it errands."""

    def __init__(self) -> None:
        super().__init__(name="localsgd-courier", daemon=True)
        self.process = os.getpid()
        self.errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Run errands until there will be no more."""
        reason: str | None = None
        while (errand := self.errands.get()) is not None:
            try:
                if reason is not None:
                    raise SyncError(f"an exchange before this one failed: {reason}")
                if errand.run is not None:
                    errand.run()
            except BaseException as error:  # noqa: BLE001 - whatever it was, whoever waits has to be told
                errand.error = error
                reason = reason or str(error)
            errand.run = None
            errand.is_over.set()
            errand = None  # nothing is to be kept alive while there is nothing to do
        atexit.unregister(self.finish)

    def finish(self) -> None:
        """Wait for the errands that are left; in a fork, which has no such thread, there is nothing to wait for."""
        self.errands.put(None)
        self.join()


@final
class Courier:
    """Runs errands in the order in which they were given, each to its end before the next.

    If all processes give theirs in the same order, and nobody else exchanges anything in the same groups, then all of them
    are in the same exchange, whatever their other threads do. After an errand that failed, this process is out of step with
    the others: those that come after it fail at once.

    The thread begins with the first errand, and ends when nobody is left who could give it one. A Python process that ends
    waits for the errands that are left, since a Gloo thread that is at work then aborts it now and then: at most for the
    timeout of one exchange.
    """

    def __init__(self) -> None:
        """Have nothing to do."""
        self._hand: _Hand | None = None

    def send(self, errand: Callable[[], None]) -> Callable[[], None]:
        """Give an errand, and do not wait for it.

        Args:
            errand: What to do; may raise. What it refers to lives until it is over.

        Returns:
            A function that returns when the errand is over, and raises what it has raised.

        Raises:
            StateError: If this process was forked from the one that sent the first.

        Cost:
            A thread that holds the interpreter for as long as it takes to start each operation.
        """
        if self._hand is None:
            self._hand = _Hand()
            self._hand.start()
            atexit.register(self._hand.finish)
            weakref.finalize(self, self._hand.errands.put, None).atexit = False
        if self._hand.process != os.getpid():
            raise StateError(_FORKED)
        given = _Errand(run=errand)
        self._hand.errands.put(given)
        return given.wait
