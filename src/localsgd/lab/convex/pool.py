"""The cells of a study, one after another in this process or several at once in others."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, final

import numpy.typing as npt
import torch

from localsgd.errors import StateError
from localsgd.lab.convex.objective import LogisticObjective
from localsgd.lab.convex.optimum import minimise
from localsgd.lab.convex.race import Cell, Problem
from localsgd.lab.convex.screen import Screen
from localsgd.lab.convex.search import CellResult, search
from localsgd.lab.data.features import FeatureSet

__all__ = ["Task", "search_cells"]

_SECONDS_BETWEEN_QUESTIONS = 0.2


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done in every cell."""

    target: float
    """How much above the minimum is good enough."""

    seeds: tuple[int, ...]
    """What each stepsize is tried with."""

    max_gradients: int
    """Gradients of one worker after which it is given up."""


def search_cells(
    task: Task,
    data: FeatureSet,
    cells: Sequence[Cell],
    *,
    num_processes: int,
    stop_wanted: Callable[[], bool],
) -> Iterator[CellResult]:
    """Search every cell, the longest first.

    Args:
        task: What to do in each.
        data: The samples.
        cells: Which ones.
        num_processes: How many at once; with 1 all is done in this process.
        stop_wanted: Asked now and then; when it says yes, what is not finished is given up.

    Yields:
        What came of each, in the order in which they finish.

    Raises:
        StateError: If another process ended without a word.
    """
    # Few workers and small batches make small steps, and many of them.
    cells = sorted(cells, key=lambda cell: (cell.workers * cell.batch_size, cell.period))
    num_processes = min(num_processes, len(cells))
    if num_processes > 1:
        yield from _in_processes(task, data, cells, num_processes=num_processes, stop_wanted=stop_wanted)
    elif cells:
        with _one_thread():
            yield from _one_by_one(_Place(task, data, stop_wanted), cells)


def _one_by_one(place: "_Place", cells: Sequence[Cell]) -> Iterator[CellResult]:
    for cell in cells:
        result = place.search(cell)
        if result is None:
            return
        yield result


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: tensors are small, and results do not depend on how many processes there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_processes(
    task: Task, data: FeatureSet, cells: Sequence[Cell], *, num_processes: int, stop_wanted: Callable[[], bool]
) -> Iterator[CellResult]:
    # Not forked: a copy of a process in which torch has threads can hang.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    # Arrays travel by value; torch would put tensors into shared memory, of which containers have little.
    arrays = (data.features.numpy(), data.labels.numpy())
    executor = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_begin, initargs=(task, arrays, stop))
    try:
        pending: set[Future[CellResult | None]] = {executor.submit(_search_here, cell) for cell in cells}
        while pending and not stop.is_set():
            finished, pending = wait(pending, timeout=_SECONDS_BETWEEN_QUESTIONS, return_when=FIRST_COMPLETED)
            yield from (result for future in finished if (result := future.result()) is not None)
            if stop_wanted():
                stop.set()
    except BrokenProcessPool as error:
        if stop_wanted():  # Ctrl-C came before they had learnt to leave it alone
            return
        raise StateError(
            f"one of num_processes={num_processes} processes ended without a word, perhaps for lack of memory; what is "
            "finished is kept: resume, with fewer processes."
        ) from error
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


@final
class _Place:
    """Where cells are searched: what stays the same from one to the next."""

    def __init__(self, task: Task, data: FeatureSet, stop_wanted: Callable[[], bool]) -> None:
        objective = LogisticObjective(data.features, data.labels)
        optimum = minimise(objective)
        screen = Screen(objective, optimum)
        self._problem = Problem(objective=objective, optimum=optimum, screen=screen, target=task.target)
        self._task, self._stop_wanted = task, stop_wanted

    def search(self, cell: Cell) -> CellResult | None:
        """Search one cell; ``None`` if it was stopped."""
        if self._stop_wanted():
            return None
        task = self._task
        return search(
            self._problem,
            cell,
            seeds=task.seeds,
            max_gradients=task.max_gradients,
            stop_wanted=self._stop_wanted,
        )


_places: list[_Place] = []


def _begin(task: Task, arrays: tuple[npt.NDArray[Any], npt.NDArray[Any]], stop: Any) -> None:
    """Prepare a process of the pool."""
    # The terminal sends Ctrl-C to all; the process that the user started tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    features, labels = map(torch.from_numpy, arrays)
    _places[:] = [_Place(task, FeatureSet(name="samples", features=features, labels=labels), stop.is_set)]


def _search_here(cell: Cell) -> CellResult | None:
    return _places[0].search(cell)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
