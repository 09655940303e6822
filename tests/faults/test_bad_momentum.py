"""Momentum that is not finite, of a worker whose parameters still are: it takes over the mean of the others'."""

import math

import torch
from torch import nn

from localsgd import Every, LocalSGD, replicate


def test_only_finite_momentum_enters_the_mean_and_everybody_gets_it():
    models = replicate(nn.Linear(1, 1, bias=False), 3)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9) for model in models]
    local = LocalSGD(models, optimizers, Every(9), optimizer_state="average")
    for row, model in enumerate(models):
        model.weight.grad = torch.full((1, 1), row + 1.0)
    local.step()
    buffers = [
        optimizer.state[model.weight]["momentum_buffer"] for model, optimizer in zip(models, optimizers, strict=True)
    ]
    assert [buffer.item() for buffer in buffers] == [1.0, 2.0, 3.0]
    buffers[2].fill_(math.inf)
    local.sync()
    assert [buffer.item() for buffer in buffers] == [1.5, 1.5, 1.5]
