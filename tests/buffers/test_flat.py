"""Rows: parameters become views and stay what they were."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn

from localsgd import ArgumentError, BrokenViewError, DisagreementError, replicate
from localsgd.buffers import FlatRows
from tests.equivalence.plain import convolutional, loss_of, perceptron


def odd_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last), nn.Flatten(), nn.Linear(7, 1))


def test_parameters_keep_identity_values_shape_and_strides():
    model = odd_model()
    before = [(id(p), p.detach().clone(), p.stride()) for p in model.parameters()]
    FlatRows([model])
    for parameter, (identity, values, stride) in zip(model.parameters(), before, strict=True):
        assert id(parameter) == identity
        assert parameter.stride() == stride
        assert torch.equal(parameter, values)
        assert isinstance(parameter, nn.Parameter)
        assert parameter.is_leaf


def test_writing_a_row_writes_the_parameters_and_the_other_way_round():
    models = replicate(odd_model(), 3)
    (group,) = FlatRows(models).groups
    group.storage[1].fill_(2)
    assert all(bool((p == 2).all()) for p in models[1].parameters())
    assert not any(bool((p == 2).all()) for m in (models[0], models[2]) for p in m.parameters())
    with torch.no_grad():
        models[2][0].weight.fill_(5)
    entry = group.layout.parameters[0]
    assert bool((entry.view(group.storage[2]) == 5).all())


def test_every_parameter_starts_on_a_64_byte_boundary_and_no_two_overlap():
    models = replicate(odd_model(), 3)
    (group,) = FlatRows(models).groups
    ranges = sorted((p.data_ptr(), p.data_ptr() + p.numel() * 4) for m in models for p in m.parameters())
    assert all(start % 64 == 0 for start, _ in ranges)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
    assert group.layout.num_parameters == sum(-(-p.numel() // 16) * 16 for p in models[0].parameters())


def test_a_permuted_or_expanded_parameter_is_stored_once_each_element():
    model = nn.Module()
    model.permuted = nn.Parameter(torch.randn(3, 4, 5).permute(2, 0, 1))
    model.expanded = nn.Parameter(torch.randn(3, 1).expand(3, 4))
    model.scalar = nn.Parameter(torch.tensor(1.5))
    model.empty = nn.Parameter(torch.empty(0, 3))
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    FlatRows([model]).require_intact(0)
    assert model.permuted.stride() == (1, 20, 5)
    assert model.expanded.is_contiguous()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, values[name])


def test_tied_weights_are_stored_once_and_frozen_ones_left_alone():
    model = perceptron()
    (group,) = FlatRows([model]).groups
    names = [entry.name for entry in group.layout.parameters]
    assert "2.weight" in names
    assert "4.weight" not in names
    assert "0.bias" not in names
    assert model[4].weight is model[2].weight


def test_parameters_of_each_dtype_get_rows_of_their_own():
    model = nn.Sequential(nn.Linear(3, 3).bfloat16(), nn.BatchNorm1d(3), nn.Linear(3, 2).double())
    groups = FlatRows(replicate(model, 2)).groups
    assert [group.layout.dtype for group in groups] == [torch.bfloat16, torch.float32, torch.float64]
    assert groups[0].layout.accumulation_dtype == torch.float32
    assert [entry.name for entry in groups[1].layout.buffers] == ["1.running_mean", "1.running_var"]


@pytest.mark.parametrize("num_rows", [1, 16])
def test_a_pickle_or_checkpoint_of_one_worker_holds_that_worker_only(num_rows):
    models = replicate(nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50)), num_rows)
    FlatRows(models)
    size = sum(p.numel() for p in models[0].parameters()) * 4
    file = io.BytesIO()
    torch.save(models[0][0].state_dict(), file)
    assert len(file.getvalue()) < size / 2 + 4000
    assert len(pickle.dumps(models[0])) < size + 6000
    again = pickle.loads(pickle.dumps(models[0]))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), models[0].parameters(), strict=True))


def test_a_deepcopy_is_independent_and_can_be_laid_out_itself():
    model = odd_model()
    rows = FlatRows([model])
    other = copy.deepcopy(model)
    FlatRows([other])
    with torch.no_grad():
        other[0].weight.zero_()
    assert bool(model[0].weight.any())
    rows.require_intact(0)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.load_state_dict({k: v.clone() for k, v in m.state_dict().items()}, assign=True),
        lambda m: setattr(m[2], "weight", nn.Parameter(torch.ones(1, 7))),
        lambda m: setattr(m[0].weight, "data", m[0].weight.data.clone()),
    ],
    ids=["half", "double", "channels_last", "load_assign", "setattr", "data"],
)
def test_a_broken_view_is_noticed_and_named(break_it):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(7, 1))
    rows = FlatRows([model])
    rows.require_intact(4)
    break_it(model)
    with pytest.raises(
        BrokenViewError, match=r"worker 4: '(0|2)\.(weight|bias)' was replaced or moved .* before LocalSGD"
    ):
        rows.require_intact(4)


@pytest.mark.parametrize(
    "harmless",
    [
        lambda m: m.load_state_dict({k: torch.ones_like(v) for k, v in m.state_dict().items()}),
        lambda m: m.zero_grad(),
        lambda m: m.to("cpu"),
        lambda m: m.float(),
        lambda m: m.train(mode=False),
        lambda m: m.requires_grad_(False),
    ],
    ids=["load", "zero_grad", "to", "float", "eval", "freeze"],
)
def test_ordinary_calls_keep_the_views(harmless):
    model = convolutional()
    rows = FlatRows([model])
    harmless(model)
    rows.require_intact(0)


def test_a_buffer_that_the_forward_pass_binds_anew_is_taken_back_with_its_value():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x):
            self.mean = 0.5 * self.mean + x
            return self.weight * x

    model = Counting()
    rows = FlatRows([model])
    model(torch.tensor([1.0, 3.0]))
    rows.require_intact(0)
    (group,) = rows.groups
    entry = group.layout.buffers[0]
    assert entry.view(group.storage[0]).tolist() == [1.0, 3.0]
    group.storage[0, group.layout.buffer_region] = 7
    assert model.mean.tolist() == [7.0, 7.0]
    model.mean = torch.zeros(3)
    with pytest.raises(BrokenViewError, match="worker 0: 'mean' was replaced"):
        rows.require_intact(0)


def test_training_through_views_gives_the_bits_of_ordinary_training():
    plain, flat = convolutional(), convolutional()
    FlatRows([flat])
    batch = (torch.randn(4, 7, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0]))
    for model in (plain, flat):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), flat.state_dict().values(), strict=True))


def test_an_integer_or_non_persistent_buffer_is_left_out():
    model = nn.BatchNorm1d(3)
    model.register_buffer("cache", torch.ones(4), persistent=False)
    (group,) = FlatRows([model]).groups
    assert [entry.name for entry in group.layout.buffers] == ["running_mean", "running_var"]


class Wrapper(torch.Tensor):
    """A tensor of which all values lie in another one, as quantization libraries make them."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return cls(args[0].inner)  # whatever it is: nothing but detach() is called here


def wrapped():
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(Wrapper(torch.ones(2, 2)))
    return [model]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (list, r"model=\[\] must hold at least one module; localsgd\.replicate"),
        (lambda: [nn.ReLU()], "model has no trainable parameter to average; set requires_grad"),
        (wrapped, "parameter 'weight' is a Wrapper, which wraps other tensors and has no memory of its own"),
        (lambda: [nn.LazyLinear(3)], "parameter 'weight' is lazy .* run one batch through the model"),
        (lambda: [nn.Linear(2, 2, device="meta")], "parameter 'weight' is on the meta device; materialise"),
        (
            lambda: [nn.Linear(2, 2, dtype=torch.complex64)],
            "parameter 'weight' has dtype torch.complex64 .*view_as_real",
        ),
        (lambda: [nn.Linear(2, 2)] * 2, "rows 0 and 1 share parameter 'weight'; give every row its own copy"),
    ],
)
def test_models_that_cannot_be_laid_out_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        FlatRows(make())


def test_rows_of_different_architecture_are_refused():
    with pytest.raises(DisagreementError, match=r"row 1 of 2: .*weight \[3, 2\].*row 0 has .*weight \[2, 2\]"):
        FlatRows([nn.Linear(2, 2), nn.Linear(2, 3)])
    with pytest.raises(DisagreementError, match="row 1 of 2: its model has 2 tensors, that of row 0 has 1"):
        FlatRows([nn.Linear(2, 2, bias=False), nn.Linear(2, 2)])
