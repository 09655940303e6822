"""The learning rate that a sync tells: that of the first process, not of all of them together."""

import pytest
import torch
from torch import nn

from localsgd import Every, LocalSGD


def rates_told(period, differ):
    model = nn.Linear(2, 1)
    rate = 0.1 * (1 + torch.distributed.get_rank() * differ)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    local = LocalSGD(model, optimizer, Every(period))
    for _ in range(2):
        optimizer.param_groups[0]["lr"] = rate
        model(torch.ones(1, 2)).sum().backward()
        local.step()
    return local.last_sync.learning_rate


@pytest.mark.parametrize("differ", [False, True])
@pytest.mark.parametrize("period", [1, 2])
def test_everybody_learns_the_rate_of_the_first_process(period, differ, processes):
    assert processes(rates_told, 3, period, differ) == [pytest.approx(0.1, rel=1e-12)] * 3
