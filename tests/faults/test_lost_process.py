"""Guarantee 6: a process that dies is noticed by the others, which say at which sync."""

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from localsgd import Every, LocalSGD, SyncError
from tests.equivalence.plain import OPTIMIZERS, batches, loss_of, perceptron
from tests.process_pool import warm_context


@pytest.mark.parametrize("how", ["dies", "stops_calling"])
def test_the_survivors_raise_with_level_and_step(how, tmp_path):
    context = warm_context()
    results = context.Queue()
    arguments = [(rank, how, str(tmp_path / "rendezvous"), results) for rank in range(2)]
    processes = [context.Process(target=_train, args=own, daemon=True) for own in arguments]
    for process in processes:
        process.start()
    try:
        kind, message = results.get(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert kind == "SyncError", message
    assert message.startswith("sync at level 1 after step 6 failed: ")
    assert "start again from the last checkpoint" in message


def _train(rank, how, rendezvous, results):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=4)
    )
    model = perceptron()
    local = LocalSGD(model, OPTIMIZERS[0](model.parameters()), Every(2))
    try:
        for step, row in enumerate(batches(10, 2), start=1):
            if rank == 1 and step == 5:
                time.sleep(60) if how == "stops_calling" else os._exit(1)
            loss_of(model, row[rank]).backward()
            local.step()
    except SyncError as error:
        results.put((type(error).__name__, str(error)))
    except BaseException as error:  # noqa: BLE001 - the parent must see whatever came instead
        results.put((type(error).__name__, repr(error)))
