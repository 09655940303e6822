"""Real processes for tests, started once a session: each runs functions under Gloo on the loopback, bounded in time."""

import os
import queue
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["ProcessPool", "warm_context"]


def warm_context() -> Any:
    """Give a context of multiprocessing whose processes are forked from one that has imported torch and localsgd already.

    That one does nothing else and has no threads, so its copies are as good as processes that start from nothing, and ready
    in milliseconds.
    """
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["localsgd"])
    return context


class ProcessPool:
    """Processes that wait for functions to run; one that fails or hangs takes the others with it, and they start anew."""

    def __init__(self, folder: Path) -> None:
        self._context = warm_context()
        self._folder = folder
        self._calls = 0
        self._processes: list[Any] = []
        self._tasks: list[Any] = []
        self._results = self._context.Queue()

    def __call__(self, function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60) -> list[Any]:
        """Call ``function(*args)`` in ``world_size`` processes with an initialised Gloo group; results by rank.

        The first exception of a process is raised here, with its traceback in the message.
        """
        self._calls += 1
        base = self._folder / f"call-{self._calls}"
        while len(self._processes) < world_size:
            task = self._context.SimpleQueue()
            process = self._context.Process(target=_serve, args=(len(self._tasks), task, self._results), daemon=True)
            process.start()
            self._tasks.append(task)
            self._processes.append(process)
        for task in self._tasks[:world_size]:
            task.put((function, world_size, str(base), args))
        try:
            found = dict(self._next(timeout) for _ in range(world_size))
        except BaseException:
            self.close()
            raise
        return [found[rank] for rank in range(world_size)]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._tasks = [], []
        self._results = self._context.Queue()

    def _next(self, timeout: float) -> tuple[int, Any]:
        try:
            rank, path, error = self._results.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"a process gave no answer within {timeout} s") from None
        if error is not None:
            raise RuntimeError(f"process {rank} raised:\n{error}")
        return rank, torch.load(path, weights_only=False)


def _serve(rank: int, tasks: Any, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    while True:
        function, world_size, base, args = tasks.get()
        dist.init_process_group(
            "gloo", init_method=f"file://{base}", rank=rank, world_size=world_size, timeout=timedelta(seconds=30)
        )
        try:
            torch.save(function(*args), f"{base}-{rank}.pt")
            dist.barrier()
            results.put((rank, f"{base}-{rank}.pt", None))
        except BaseException:  # noqa: BLE001 - whatever it was, the parent process must hear of it
            results.put((rank, None, traceback.format_exc()))
        finally:
            dist.destroy_process_group()
