import pytest
import torch
from torch import nn

from localsgd import ArgumentError, Averaging, BlockMomentum, Nesterov, SlowMo
from localsgd.lab.optimizers import make_optimizer, make_outer
from localsgd.lab.sections import OptimizerConfig, OuterConfig
from localsgd.optim import LARS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Averaging()),
        ({"name": "momentum"}, BlockMomentum(0.3)),
        ({"name": "momentum", "momentum": 0.0}, BlockMomentum(0.0)),
        ({"name": "slowmo"}, SlowMo(lr=1.0, momentum=0.5)),
        ({"name": "slowmo", "momentum": 0.8}, SlowMo(lr=1.0, momentum=0.8)),
        ({"name": "nesterov"}, Nesterov(lr=0.7, momentum=0.9)),
        ({"name": "nesterov", "lr": 0.4}, Nesterov(lr=0.4, momentum=0.9)),
    ],
)
def test_an_outer_optimizer_by_name_has_its_own_defaults(settings, expected):
    assert make_outer(OuterConfig(**settings)) == expected


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def settings(**changes):
    return OptimizerConfig(learning_rate=0.1, momentum=0.8, weight_decay=0.01, **changes)


def test_sgd_decays_everything_but_normalisation():
    optimizer = make_optimizer(model(), settings(), learning_rate=0.05)
    assert type(optimizer) is torch.optim.SGD
    groups = optimizer.param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(4, 0.01), (2, 0.0)]
    assert {(group["lr"], group["momentum"], group["nesterov"]) for group in groups} == {(0.05, 0.8, True)}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_step_and_a_loop_over_tensors_move_a_model_alike(name):
    moved = []
    for fused in (True, False):
        torch.manual_seed(0)
        trained = model()
        chosen = settings(name=name, nesterov=False, fused=fused)
        optimizer = make_optimizer(trained, chosen, learning_rate=0.05)
        assert optimizer.defaults["fused"] is fused
        for _ in range(5):
            for parameter in trained.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        moved.append(torch.cat([parameter.detach().flatten() for parameter in trained.parameters()]))
    # Products and sums in another order, five steps long: a few units in the last of 24 bits.
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-5, atol=1e-6)


def test_lars_is_not_told_how_to_loop():
    with pytest.raises(ArgumentError, match=r"optimizer\.fused=false has no meaning with optimizer\.name=lars; set"):
        settings(name="lars", fused=False)


@pytest.mark.parametrize(("given", "used"), [(None, 0.02), (0.1, 0.1)])
def test_lars_adapts_the_weights_only(given, used):
    optimizer = make_optimizer(model(), settings(name="lars", trust_coefficient=given), learning_rate=0.05)
    assert type(optimizer) is LARS
    groups = optimizer.param_groups
    assert [(len(group["params"]), group["adapt"], group["weight_decay"]) for group in groups] == [
        (2, True, 0.01),
        (4, False, 0.0),
    ]
    common = {(group["lr"], group["momentum"], group["nesterov"], group["trust_coefficient"]) for group in groups}
    assert common == {(0.05, 0.8, True, used)}
