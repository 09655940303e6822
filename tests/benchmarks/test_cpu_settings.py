"""What cpu_settings compares: the product's own defaults, and variants of them that differ in one thing each."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def part():
    """Imports a shared part by its name, as the scripts do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture
def case(part):
    return part("_variants").Case(recipe="digits-cnn", model="digits-cnn", batch_size=4, num_steps=1)


@pytest.fixture
def default(part):
    return part("_variants").Variant(
        processes=1,
        threads=1,
        channels_last=True,
        precision="float32",
        compiled=False,
        allocator="tuned",
        optimizer="fused",
    )


def test_the_default_is_what_the_product_does_to_a_model(part, case):
    class Plain(type(case)):
        def config(self):
            return super().config().overridden(["precision=float32", "channels_last=false", "optimizer.fused=false"])

    class Fast(type(case)):
        def config(self):
            return super().config().overridden(["precision=bfloat16", "channels_last=true", "optimizer.fused=true"])

    fields = {"recipe": "digits-cnn", "model": "digits-cnn", "batch_size": 4, "num_steps": 1}
    read = part("cpu_settings").read_default
    plain, fast = read(Plain(**fields)), read(Fast(**fields))
    assert (plain.precision, plain.channels_last) == ("float32", False)
    assert plain.optimizer != "fused"
    assert (fast.precision, fast.channels_last, fast.optimizer) == ("bfloat16", True, "fused")
    assert plain.processes * plain.threads == part("cpu_settings").usable_cores()
    assert (plain.compiled, plain.allocator) == (False, "tuned")


def test_each_variant_differs_from_the_default_in_one_factor(part, case, default):
    settings = part("cpu_settings")
    levels = settings.variants_of(case, default, settings.FACTORS)
    assert list(levels) == list(settings.FACTORS)
    for factor, found in levels.items():
        assert found or factor == "threads", factor  # on one core there is nothing else
        for variant in found.values():
            others = [name for name in settings.FACTORS if name != factor]
            assert all(variant.describe((name,)) == default.describe((name,)) for name in others)
            assert variant.describe((factor,)) != default.describe((factor,))
            changed = {name for name, value in vars(variant).items() if value != vars(default)[name]}
            assert changed <= {*settings.FIELDS[factor]}


def test_a_network_without_convolutions_has_no_memory_formats(part, default):
    case = part("_variants").Case(recipe="digits-mlp", model="digits-mlp", batch_size=4, num_steps=1)
    settings = part("cpu_settings")
    assert settings.variants_of(case, default, ("memory format", "precision"))["memory format"] == {}


def test_what_a_process_is_told_survives_the_way_there(part, case, default):
    work = part("_variants").Work(case=case, variant=default, seed=3)
    assert part("_variants").Work.read(work.write()) == work


@pytest.mark.parametrize(
    ("recipe", "model"),
    [("digits-cnn", "digits-cnn"), ("digits-mlp", "digits-mlp"), ("tinyshakespeare-transformer", "transformer-tiny")],
)
def test_steps_of_all_optimizers_and_formats_are_the_same_to_rounding(part, recipe, model, default):
    variants = part("_variants")
    case = variants.Case(recipe=recipe, model=model, batch_size=2, num_steps=1)
    results = {}
    for optimizer in ("fused", "foreach", "for-loop"):
        for channels_last in (True, False):
            variant = default.changed(optimizer=optimizer, channels_last=channels_last)
            step, network = variants.make_step(variants.Work(case=case, variant=variant, seed=0))
            before = torch.cat([parameter.detach().clone().flatten() for parameter in network.parameters()])
            for _ in range(3):
                step()
            results[optimizer, channels_last] = torch.cat([p.detach().flatten() for p in network.parameters()])
    reference = results.pop(("fused", True))
    assert not torch.equal(reference, before)
    for what, found in results.items():
        torch.testing.assert_close(found, reference, rtol=1e-3, atol=2e-3, msg=str(what))


def test_a_gain_is_a_finding_only_where_its_interval_excludes_one(part):
    settings, timing = part("cpu_settings"), part("_timing")
    always = timing.ratios([1.1] * 7, [1.0] * 7)
    sometimes = timing.ratios([1.1] * 6 + [0.9], [1.0] * 7)
    assert settings.is_gain(always)
    assert not settings.is_gain(sometimes)
    assert not settings.is_gain(timing.ratios([1.1] * 5, [1.0] * 5))  # too few to say
