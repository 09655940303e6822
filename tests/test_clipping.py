"""``clip_norm`` in rounds of several steps: each worker's own gradient is clipped, whoever steps, scaled or not."""

import pytest
import torch
from torch import nn

from localsgd import Every, LocalSGD, replicate


def zeros(num_rows):
    models = replicate(nn.Linear(2, 1, bias=False), num_rows)
    with torch.no_grad():
        for model in models:
            model.weight.zero_()
    return models, [torch.optim.SGD(model.parameters(), lr=1.0) for model in models]


def scaled(model, gradient, scaler):
    """Do what backward does where the gradient is known."""
    loss = (model.weight * torch.tensor([gradient])).sum()
    (loss if scaler is None else scaler.scale(loss)).backward()


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("by_hooks", [False, True])
def test_a_long_gradient_is_cut_to_the_norm_and_a_short_one_left_alone(by_hooks, scale):
    (model,), (optimizer,) = zeros(1)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    local = LocalSGD(model, optimizer, Every(5), clip_norm=1.0)
    if by_hooks:
        local.attach(scaler=scaler)
    for gradient, expected in (([3.0, 4.0], [-0.6, -0.8]), ([0.3, 0.4], [-0.9, -1.2])):
        scaled(model, gradient, scaler)
        if not by_hooks:
            local.step(scaler=scaler)
        elif scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        optimizer.zero_grad()
        torch.testing.assert_close(model.weight.detach().view(-1), torch.tensor(expected))
    assert local.steps == 2


def test_each_row_is_clipped_by_its_own_norm():
    models, optimizers = zeros(2)
    local = LocalSGD(models, optimizers, Every(5), clip_norm=1.0)
    for model, gradient in zip(models, ([3.0, 4.0], [0.3, 0.4]), strict=True):
        scaled(model, gradient, None)
    local.step()
    moved = torch.cat([model.weight.detach() for model in models])
    torch.testing.assert_close(moved, torch.tensor([[-0.6, -0.8], [-0.3, -0.4]]))
