"""Fixtures shared by all tests."""

import fcntl
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch

from localsgd.lab.cores import usable_cores
from localsgd.lab.data import DATA_SETS
from tests.process_pool import ProcessPool

MOST_WORKERS = 4
"""Each of pytest's processes starts four of its own for tests, and needs 1 to 2 GB with them."""


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPool]:
    """Run a function in real processes under Gloo: ``processes(function, world_size, *args)``."""
    pool = ProcessPool(tmp_path_factory.mktemp("processes"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def data_root() -> Callable[[str], Path]:
    """Give the data root with a real data set in it, ``data_root("cifar100")``; skips where the set is not there."""
    root = os.environ.get("LOCALSGD_DATA")  # now: some tests take it out of their environment

    def find(name: str) -> Path:
        if root is None:
            pytest.skip(f"LOCALSGD_DATA is not set, so there is no real {name} to read")
        folder = DATA_SETS[name].folder
        if folder is None or not (Path(root) / folder).is_dir():
            pytest.skip(f"there is no {folder}, the folder of {name}, in LOCALSGD_DATA={root}")
        return Path(root)

    return find


@pytest.fixture(scope="session")
def cifar10_root(data_root: Callable[[str], Path]) -> Path:
    """The data root with the real CIFAR-10 in it; skips where there is none."""
    return data_root("cifar10")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, saying why."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Let the tests that need it have their turn, whichever of pytest's processes they are in; waiting is not timed."""
    if item.get_closest_marker("one_at_a_time") is None:
        return (yield)
    with Path(__file__).open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Say how many processes ``pytest -n auto`` starts: one for each core; on a single one, pytest stays alone."""
    num_workers = min(usable_cores(), MOST_WORKERS)
    return num_workers if num_workers > 1 else 0
