"""A worker that was left out of a late sync begins anew, also where that sync has to land before it is due."""

import math

import torch
from torch import nn

from localsgd import Every, LocalSGD, Sequence, replicate


def test_the_momentum_of_a_worker_that_was_left_out_is_forgotten_when_a_shorter_round_ends():
    models = replicate(nn.Linear(2, 1, bias=False), 3)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    schedule = Sequence([(4, Every(2)), (None, Every(4))])
    local = LocalSGD(models, optimizers, schedule, overlap_steps=3, non_finite="exclude")
    found = []
    for step in range(1, 6):
        for row, model in enumerate(models):
            model.weight.grad = torch.ones(1, 2)
            if (step, row) == (2, 1):
                with torch.no_grad():
                    model.weight[0, 0] = math.nan
            local.step(row=row)
        found.append([bool(optimizer.state) for optimizer in optimizers])
    # The sync after step 2 would land after step 5, but the next one starts after step 4.
    assert found == [[True] * 3] * 3 + [[True, False, True]] + [[True] * 3]
    assert all(bool(model.weight.isfinite().all()) for model in models)
