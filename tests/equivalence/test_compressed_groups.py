"""Compressed syncs of a model of several dtypes: each group of parameters is rounded in a way of its own."""

import pytest
import torch
from torch import nn

from localsgd import Every, LocalSGD, replicate
from localsgd.compression import Int4

LENGTH = 400


def moved(num_rows):
    """Two layers of different dtypes move alike; gives how far they have come in a sync, from the point where they began."""
    layers = [nn.Linear(LENGTH, 1, bias=False, dtype=dtype) for dtype in (torch.float32, torch.float64)]
    models = replicate(nn.Sequential(*layers), num_rows)
    change = torch.randn(LENGTH, generator=torch.Generator().manual_seed(0))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    local = LocalSGD(models, optimizers, Every(100), compression=Int4(LENGTH, rounding="stochastic"))
    start = [parameter.detach().clone() for parameter in models[0].parameters()]
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                parameter.add_(change)
    local.sync()
    return [
        (now.detach() - before).view(-1).double() for now, before in zip(models[0].parameters(), start, strict=True)
    ]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_layers_of_two_dtypes_that_moved_alike_are_rounded_differently(num_processes, processes):
    one, other = moved(2) if num_processes == 1 else processes(moved, 2, 1)[0]
    scale = torch.maximum(one.abs(), other.abs()).max() / 7
    assert ((one - other).abs() > scale / 4).double().mean() > 0.1
    assert (one - other).abs().max() < 3 * scale
