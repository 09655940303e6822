"""Processes that call different things after the same step meet in one collective: nobody takes it for what he meant."""

import pytest
import torch

from localsgd import DisagreementError, Every, LocalSGD
from tests.equivalence.plain import OPTIMIZERS, batches, loss_of, perceptron


def read(local):
    with local.averaged():
        pass


CALLS = {"manual": LocalSGD.sync, "flush": LocalSGD.finish, "averaged()": read}


def meet(own_calls):
    """Take two steps, then make the call of this process."""
    rank, model = torch.distributed.get_rank(), perceptron()
    local = LocalSGD(model, OPTIMIZERS[0](model.parameters()), Every(5))
    for row in batches(2, 2):
        loss_of(model, row[rank]).backward()
        local.step()
    try:
        CALLS[own_calls[rank]](local)
    except DisagreementError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("own_calls", [("manual", "flush"), ("flush", "averaged()"), ("averaged()", "manual")], ids=str)
def test_different_calls_after_the_same_step_are_told_to_all(own_calls, processes):
    for message in processes(meet, 2, own_calls):
        assert message.startswith(
            "processes met in one exchange with different intentions "
            f"(process 0: {own_calls[0]} at step 2; process 1: {own_calls[1]} at step 2)"
        )
