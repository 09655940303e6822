"""Which arithmetic and memory format a run gets, and that it keeps them."""

import json
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from localsgd import ArgumentError
from localsgd.lab.interrupted import Interrupted
from localsgd.lab.models import MODELS
from localsgd.lab.precision import Ability, choose_arithmetic, describe_arithmetic, find_ability, slow_bfloat16
from localsgd.lab.recipes import RECIPES, recipe
from tests.lab.models.examples import on_meta
from tests.lab.small_runs import CPU, Watcher, config, run, saved_state, untimed_summary

GOOD = Ability(bfloat16=True, channels_last=True)
OLD = Ability(bfloat16=False, channels_last=True)
BARE = Ability(bfloat16=False, channels_last=False)
OPEN = [
    "model.name=resnet20-patch",
    "precision=auto",
    "channels_last=auto",
    "algorithm=local",
    "reestimate_batches=none",
]
OPEN += ["workers=2", "batch_size=4", "data.train_limit=48", "data.test_limit=10", "epochs=2", "period=5"]
OPEN += ["evaluate_every_epochs=none"]
"""12 steps of a network for which everything could be chosen, on the digits."""


def chosen(name, *abilities, overrides=()):
    found = choose_arithmetic(recipe(name).overridden(overrides), abilities)
    return found.precision, found.channels_last


def small(*overrides, **options):
    return run(*OPEN, *overrides, name="digits-cnn", **options)


@contextmanager
def plain_device(*, is_plain=True):
    """Torch without oneDNN: a machine that does nothing well."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and not is_plain
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def warnings_of(watcher):
    return [event["message"] for event in watcher.of_kind("warning") if "bfloat16" in event["message"]]


def test_models_say_whether_they_have_convolutions():
    assert {name for name, spec in MODELS.items() if spec.has_convolutions} == {
        name for name in MODELS if any(isinstance(module, nn.Conv2d) for module in on_meta(name).modules())
    }


@pytest.mark.parametrize("name", ["cifar10-resnet20", "cifar10-resnet20-patch", "imagenet-resnet50", "cifar100-wrn28"])
def test_convolutional_networks_get_what_the_device_does_well(name):
    assert chosen(name, GOOD) == ("bfloat16", True)
    assert chosen(name, OLD) == ("float32", True)
    assert chosen(name, BARE) == ("float32", False)


@pytest.mark.parametrize("name", ["digits-mlp", "w8a-logistic", "wikitext2-lstm"])
def test_where_nothing_was_measured_to_be_gained_arithmetic_is_plain(name):
    assert chosen(name, GOOD) == ("float32", False)


def test_a_network_too_small_to_gain_from_bfloat16_stays_in_float32():
    assert chosen("digits-cnn", GOOD) == ("float32", True)


def test_what_is_said_is_done_whatever_the_device():
    said = ["precision=float32", "channels_last=false"]
    assert chosen("cifar10-resnet20", GOOD, overrides=said) == ("float32", False)
    assert chosen("cifar10-resnet20", BARE, overrides=["precision=bfloat16"]) == ("bfloat16", False)
    assert chosen("digits-mlp", GOOD, overrides=["channels_last=true"]) == ("float32", True)


def test_stacked_images_have_no_channels_last():
    assert chosen("digits-cnn", GOOD, overrides=["engine=stacked"]) == ("float32", False)


def test_one_device_that_cannot_is_enough_for_nobody_to_be_asked():
    assert chosen("cifar10-resnet20", GOOD, OLD, GOOD) == ("float32", True)
    assert chosen("cifar10-resnet20", GOOD, BARE) == ("float32", False)


def test_every_recipe_leaves_the_choice_open():
    for name in RECIPES:
        assert (recipe(name).precision, recipe(name).channels_last) == ("auto", "auto")


def test_a_cpu_is_asked_for_its_instructions():
    torch_knows = torch.cpu._is_avx512_bf16_supported() or torch.cpu.get_capabilities().get("amx_bf16", False)
    has_library = torch.backends.mkldnn.is_available()
    assert find_ability(CPU) == Ability(bfloat16=has_library and torch_knows, channels_last=has_library)
    with plain_device():
        assert find_ability(CPU) == BARE


@pytest.mark.gpu
def test_a_gpu_is_asked_for_its_generation():
    found = find_ability(torch.device("cuda"))
    assert found.channels_last
    assert found.bfloat16 is (torch.cuda.get_device_capability() >= (8, 0))


def test_other_devices_are_refused():
    with pytest.raises(ArgumentError, match=r"device=meta must be a CPU or a CUDA device; use torch\.device\('cpu'\)"):
        find_ability(torch.device("meta"))


def test_devices_that_must_convert_are_named():
    low = config("precision=bfloat16")
    assert slow_bfloat16(low, [GOOD, GOOD]) == slow_bfloat16(config(), [BARE]) == ()
    assert slow_bfloat16(low, [OLD])[0].startswith("precision=bfloat16: this device computes it by way of float32")
    assert "the device of process 1 of 2 computes it" in slow_bfloat16(low, [GOOD, OLD])[0]
    assert "2 of the 3 devices, that of process 1 first, compute it" in slow_bfloat16(low, [GOOD, OLD, OLD])[0]


def test_the_plainest_goes_without_saying():
    assert describe_arithmetic(config()) == ""
    assert describe_arithmetic(config("precision=bfloat16", "channels_last=true")) == "bfloat16, channels last"
    assert describe_arithmetic(config("channels_last=true")) == "channels last"


def test_the_run_says_what_it_was_trained_in(tmp_path):
    expected = choose_arithmetic(config(*OPEN, name="digits-cnn"), [find_ability(CPU)])
    watcher = Watcher()
    summary = small("epochs=1", out=tmp_path, watcher=watcher)
    saved = json.loads((tmp_path / "config.json").read_text())
    for told in (summary, saved, vars(watcher.plan.config)):
        assert (told["precision"], told["channels_last"]) == (expected.precision, expected.channels_last)
    again = small("epochs=1", *(f"{name}={str(saved[name]).lower()}" for name in ("precision", "channels_last")))
    assert again["train_loss"] == summary["train_loss"]


def test_a_run_keeps_float32_on_a_machine_that_would_choose_otherwise(tmp_path):
    unbroken = small("precision=float32", "channels_last=false")
    with plain_device(), pytest.raises(Interrupted):
        small(out=tmp_path, watcher=Watcher(stop_after=6))
    resumed = small(out=tmp_path, resume=True)
    assert (resumed["precision"], resumed["channels_last"]) == ("float32", False)
    # Half of it went without oneDNN, whose convolutions round otherwise.
    assert resumed["train_loss"] == pytest.approx(unbroken["train_loss"], rel=1e-2)


def test_a_run_keeps_bfloat16_on_a_machine_that_is_slow_in_it_and_says_so(tmp_path):
    low = ["precision=bfloat16", "channels_last=false"]
    unbroken = small(*low, out=tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        small(*low, out=tmp_path / "run", watcher=Watcher(stop_after=6))
    with plain_device():
        watcher = Watcher()
        resumed = small(out=tmp_path / "run", resume=True, watcher=watcher)
    assert (resumed["precision"], resumed["channels_last"]) == ("bfloat16", False)
    assert [message.partition(":")[0] for message in warnings_of(watcher)] == ["precision=bfloat16"]
    assert watcher.of_kind("warning")[0]["step"] == 6
    # Momenta and weights of half a run in bfloat16, eight bits each.
    assert resumed["train_loss"] == pytest.approx(unbroken["train_loss"], rel=0.05)


def test_a_run_of_before_there_was_a_choice_goes_on_as_it_began(tmp_path):
    with pytest.raises(Interrupted):
        small("precision=float32", "channels_last=true", out=tmp_path, watcher=Watcher(stop_after=6))
    resumed = small(out=tmp_path, resume=True)
    unbroken = small("precision=float32", "channels_last=true")
    assert untimed_summary(resumed) == untimed_summary(unbroken)


def test_another_precision_than_the_run_began_with_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        small("precision=float32", out=tmp_path, watcher=Watcher(stop_after=6))
    with pytest.raises(ArgumentError, match="precision='bfloat16' differs from 'float32', with which the run in"):
        small("precision=bfloat16", out=tmp_path, resume=True)


def train_on_uneven_hosts(out):
    """Only process 0 has a machine that does anything well."""
    with plain_device(is_plain=torch.distributed.get_rank() > 0):
        watcher = Watcher()
        summary = small("epochs=1", "period=3", out=out, watcher=watcher)
        low = Watcher()
        small("epochs=0.2", "precision=bfloat16", watcher=low)
    return summary, warnings_of(watcher), warnings_of(low)


def test_hosts_of_different_abilities_take_what_all_of_them_do_well(tmp_path, processes):
    results = processes(train_on_uneven_hosts, 2, tmp_path / "run")
    assert [(summary["precision"], summary["channels_last"]) for summary, *_ in results] == [("float32", False)] * 2
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["precision"], saved["channels_last"]) == ("float32", False)
    states = saved_state(tmp_path / "run", 6)
    first, *others = (state["model"] for name, state in states.items() if name.startswith("worker"))
    assert all(torch.equal(own[name], first[name]) for own in others for name in own if "weight" in name)
    (_, calm, told), *_ = results
    assert calm == []
    assert len(told) == 1
    assert any(f"the device of process {rank} of 2" in told[0] for rank in (0, 1))
