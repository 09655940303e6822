"""Workers weighed by samples: by how many each step has seen, anew in every round."""

import pytest
import torch
from torch import nn

from localsgd import Every, EverySeconds, Hierarchical, LocalSGD, Topology, replicate


@pytest.mark.parametrize("measure_drift", [False, True])
def test_workers_count_by_the_samples_of_their_steps_since_the_last_sync(measure_drift):
    models = replicate(nn.Linear(1, 1, bias=False, dtype=torch.float64), 2)
    with torch.no_grad():
        for model in models:
            model.weight.zero_()
    optimizers = [torch.optim.SGD(model.parameters(), lr=1.0) for model in models]
    local = LocalSGD(models, optimizers, EverySeconds(1000.0), measure_drift=measure_drift)
    found = []
    for samples in ((1, 3), (1, 3), (2, 0.5)):  # two steps in the first round, one in the second
        for row, (model, gradient) in enumerate(zip(models, (-1.0, -5.0), strict=True)):
            model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
            local.step(row=row, num_samples=samples[row])
        if local.steps > 1:
            local.sync()
            found.append([model.weight.item() for model in models])
    # (2 * 2 + 6 * 10) / 8, and from there (2 * 1 + 0.5 * 5) / 2.5
    assert found == [pytest.approx([8.0] * 2), pytest.approx([9.8] * 2)]


def test_samples_count_since_the_last_sync_of_everyone_not_since_that_of_a_block():
    models = replicate(nn.Linear(1, 1, bias=False, dtype=torch.float64), 4)
    with torch.no_grad():
        for model in models:
            model.weight.zero_()
    optimizers = [torch.optim.SGD(model.parameters(), lr=1.0) for model in models]
    schedule = Hierarchical([Every(2), EverySeconds(1000.0)])
    local = LocalSGD(models, optimizers, schedule, topology=Topology((2, 2)))
    for samples in ((1, 1, 3, 3), (1, 1, 3, 3), (3, 3, 1, 1)):
        for row, (model, gradient) in enumerate(zip(models, (-1.0, -1.0, -5.0, -5.0), strict=True)):
            model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
            local.step(row=row, num_samples=samples[row])
    assert local.totals.rounds == 1
    local.sync()
    assert [model.weight.item() for model in models] == pytest.approx([(5 * 3 + 7 * 15) / 12] * 4)
