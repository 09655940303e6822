from dataclasses import replace

import pytest

from localsgd import ArgumentError
from localsgd.lab.data import load
from localsgd.lab.models import MODELS
from localsgd.lab.plan import make_plan
from localsgd.lab.recipes import RECIPES, recipe
from localsgd.lab.scales import scaled
from localsgd.lab.trainer import train
from tests.lab.small_runs import CPU


@pytest.mark.parametrize("name", RECIPES)
def test_the_full_scale_is_the_recipe_itself(name):
    assert scaled(recipe(name), "full") == recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_smaller_scale_changes_the_size_and_nothing_else(name):
    config = recipe(name)
    for scale in ("smoke", "small"):
        cut = scaled(config, scale)
        assert (cut.model, cut.algorithm, cut.outer, cut.seed) == (
            config.model,
            config.algorithm,
            config.outer,
            config.seed,
        )
        unscaled = ("learning_rate", "warmup_epochs")
        kept = {field: getattr(config.optimizer, field) for field in unscaled}
        assert replace(cut.optimizer, **kept) == config.optimizer
        assert cut.epochs <= config.epochs
        assert cut.batch_size <= config.batch_size


@pytest.mark.parametrize("name", [name for name in RECIPES if MODELS[recipe(name).model.name].reads == "images"])
def test_smoke_is_two_epochs_of_three_steps(name):
    cut = scaled(recipe(name), "smoke")
    assert make_plan(cut, num_samples=cut.data.train_limit).num_steps == 6


def test_smoke_runs(tmp_path):
    summary = train(scaled(recipe("digits-cnn"), "smoke"), data_root=tmp_path, device=CPU)
    assert (summary["steps"], summary["samples"]) == (6, 48)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ArgumentError, match=r"scale='tiny' is not known"):
        scaled(recipe("digits-mlp"), "tiny")


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_digits_are_small_as_they_are(name):
    data = scaled(recipe(name), "small").data
    loaded = load("digits", None, train_limit=data.train_limit, test_limit=data.test_limit)
    assert len(loaded.train.labels) == 1437
