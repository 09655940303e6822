"""The contestants of sync_cost that need torchft, and the program that measures them in an environment of their own.

`python _torchft_averagers.py QUESTION.json ANSWER.json`, started by sync_cost with the interpreter of that environment.
Nothing of localsgd is imported: torch and torchft are enough.
"""

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.distributed as dist
from _bare_models import Shape, with_parameters
from _processes import run_in_processes
from _sync_measuring import FLOOR, Contestant, Settings, measure, merge, raw_all_reduce
from torch import nn
from torch.optim import SGD

__all__ = ["CONTESTANTS", "TIMEOUT_SECONDS"]

TIMEOUT_SECONDS = 600
_HOST = "127.0.0.1"


def _local_sgd(shapes: Sequence[Shape]) -> Contestant:
    """Its `sync()`: a quorum, the mean of a copy of each parameter, a vote, and copies back."""
    torchft_local_sgd: Any = importlib.import_module("torchft.local_sgd")  # only in the environment of its own
    model, optimizer = _plain(shapes)
    manager, close = _manager()
    theirs = torchft_local_sgd.LocalSGD(manager, model, optimizer, sync_every=1)
    return Contestant(tensors=lambda: list(model.parameters()), sync=theirs.sync, close=close)


def _diloco(shapes: Sequence[Shape], **options: Any) -> Contestant:
    """An inner step that finds no gradient, and so a sync; with an outer step of rate 1 it leaves the mean."""
    torchft_local_sgd: Any = importlib.import_module("torchft.local_sgd")
    model, optimizer = _plain(shapes)
    outer = SGD(model.parameters(), lr=1.0)
    manager, close = _manager()
    theirs = torchft_local_sgd.DiLoCo(manager, [model], optimizer, outer, sync_every=1, **options)
    theirs.__enter__()
    return Contestant(tensors=lambda: list(model.parameters()), sync=optimizer.step, close=close)


def _diloco_in_buckets(shapes: Sequence[Shape]) -> Contestant:
    return _diloco(shapes, use_bucketization=True)


CONTESTANTS: Mapping[str, Callable[[Sequence[Shape]], Contestant]] = MappingProxyType(
    {
        FLOOR: raw_all_reduce,
        "torchft LocalSGD": _local_sgd,
        "torchft DiLoCo": _diloco,
        "torchft DiLoCo(use_bucketization=True)": _diloco_in_buckets,
    }
)
"""Every contestant by its name, as in `_averagers`."""


def _plain(shapes: Sequence[Shape]) -> tuple[nn.Module, SGD]:
    model = with_parameters(shapes)
    for parameter in model.parameters():
        parameter.grad = None
    return model, SGD(model.parameters(), lr=0.1)


def _ignore(state: object) -> None:
    """Load nothing: nobody recovers here."""
    del state


def _manager() -> tuple[Any, Callable[[], None]]:
    """Make every process a replica group of its own, under a lighthouse that the first one runs."""
    torchft: Any = importlib.import_module("torchft")
    coordination: Any = importlib.import_module("torchft.coordination")
    rank, size = dist.get_rank(), dist.get_world_size()
    lighthouse = coordination.LighthouseServer(bind=f"{_HOST}:0", min_replicas=size) if rank == 0 else None
    address = [lighthouse.address() if lighthouse is not None else None]
    dist.broadcast_object_list(address)
    store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]  # torch exports it by a star
    manager = torchft.Manager(
        pg=torchft.ProcessGroupGloo(timeout=timedelta(seconds=120)),
        load_state_dict=_ignore,
        state_dict=dict,
        min_replica_size=size,
        use_async_quorum=False,  # what DiLoCo insists on
        init_sync=False,  # all start alike
        rank=0,
        world_size=1,
        store_addr=_HOST,
        store_port=store.port,
        lighthouse_addr=address[0],
        replica_id=f"process-{rank}",
        hostname=_HOST,
    )

    kept = [store]  # a store that nobody refers to is gone, and with it the quorum's address book

    def close() -> None:
        manager.shutdown(wait=True)
        dist.barrier()
        del kept[:]
        if lighthouse is not None:
            lighthouse.shutdown()

    return manager, close


def _measure(shapes: list[Shape], settings: Settings) -> dict[str, Any]:
    return measure({name: make(shapes) for name, make in CONTESTANTS.items()}, settings)


def main() -> None:
    question, answer = map(Path, sys.argv[1:])
    asked = json.loads(question.read_text(encoding="utf-8"))
    shapes = [tuple(shape) for shape in asked["shapes"]]
    settings = Settings(**asked["settings"])
    found = run_in_processes(_measure, asked["processes"], shapes, settings, timeout_seconds=TIMEOUT_SECONDS)
    versions = {package: metadata.version(package) for package in ("torchft", "torch")}
    answer.write_text(json.dumps({**asdict(merge(found)), "versions": versions}), encoding="utf-8")


if __name__ == "__main__":
    main()
