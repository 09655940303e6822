"""The naive loop as a process of its own with a thread for each core: see `_peers`."""

import os

import torch
from _fleets import NaiveLoop, Setting
from _orders import Orders

__all__ = ["main"]


def main(path: str, setting: str) -> None:
    """Train as told.

    Args:
        path: Where orders come from.
        setting: What is trained.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    naive = NaiveLoop(Setting.read(setting))
    orders = Orders(path, naive.total)
    while orders.wait():
        naive()
        orders.done()
