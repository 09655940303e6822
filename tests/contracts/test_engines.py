"""What every engine must do: train as the plain one does. A new engine joins by one line in ``TOLERANCES``."""

from pathlib import Path

import pytest
import torch

from localsgd import ArgumentError, NonFiniteError
from localsgd.lab.engine import ENGINES, Engine
from localsgd.lab.interrupted import Interrupted
from tests.lab.small_runs import Watcher, run, saved_state, untimed_record, untimed_summary

EXACT = {"rtol": 0, "atol": 0}
# Sums of a batched product are taken in another order. Float32 has a relative error of 6e-8; over 12 steps of momentum it
# grows by some ten times, in weights and momenta of order 0.1. A step too many, or a wrong rate, is wrong by 1e-3.
ROUNDED = {"rtol": 1e-5, "atol": 2e-6}
TOLERANCES = {"plain": EXACT, "stacked": ROUNDED, "graph": EXACT}

ADAMW = ["optimizer.name=adamw", "optimizer.nesterov=false", "optimizer.weight_decay=0.1"]
BLOCKS = ["algorithm=hierarchical", "block_size=2", "block_period=2", "period=2"]
RUNS = {
    "local": ["algorithm=local"],
    "local, never within the run": ["algorithm=local", "period=100"],
    "local, evaluated within rounds": ["algorithm=local", "period=7", "evaluate_every_epochs=1", "buffers=local"],
    "mini-batch": ["algorithm=minibatch"],
    "post-local": ["algorithm=post-local"],
    "hierarchical": BLOCKS,
    "AdamW": ["algorithm=local", *ADAMW],
    "AdamW, post-local": ["algorithm=post-local", *ADAMW],
    "no momentum": ["algorithm=local", "optimizer.momentum=0", "optimizer.nesterov=false"],
    "an outer optimizer": ["algorithm=local", "outer.name=slowmo"],
    "a schedule that looks at losses": ["algorithm=adacomm"],
    "a schedule that looks at the drift": ["algorithm=drift-triggered", "schedule.threshold=0.05"],
    "bfloat16": ["algorithm=local", "precision=bfloat16"],
    "one worker": ["algorithm=local", "workers=1", "batch_size=64"],
    "data with replacement": ["algorithm=local", "data.distribution=replacement"],
}
BF16 = {"rtol": 2e-2, "atol": 2e-3}

ONE_STEP = {
    "BatchNorm": ["algorithm=minibatch"],
    "BatchNorm, post-local": ["algorithm=post-local"],
    "BatchNorm, statistics of their own": ["algorithm=post-local", "buffers=local"],
    "BatchNorm, statistics of the first": ["algorithm=minibatch", "buffers=broadcast"],
    "clipping": ["algorithm=post-local", "optimizer.clip_norm=0.1"],
    "AdamW, clipping": ["algorithm=minibatch", "optimizer.clip_norm=0.1", *ADAMW],
    "LARS": ["algorithm=post-local", "optimizer.name=lars"],
    "bfloat16, channels_last": ["algorithm=post-local", "precision=bfloat16", "channels_last=true"],
    "a share that is no power of two": ["algorithm=minibatch", "workers=3"],
    "one worker": ["algorithm=minibatch", "workers=1", "batch_size=64"],
    "an outer optimizer": ["algorithm=post-local", "outer.name=nesterov"],
    "blocks": [*BLOCKS, "period=1"],
    "rounds that grow": ["algorithm=local", "period=4", "schedule.warmup_epochs=2"],
    "a schedule that looks at losses": ["algorithm=adacomm", "period=1"],
    "compression afterwards": ["algorithm=post-local", "compression.name=sign"],
    "late syncs afterwards": ["algorithm=post-local", "overlap_steps=2", "fragments=2"],
    "evaluated within": ["algorithm=minibatch", "evaluate_every_epochs=1", "checkpoint_every_epochs=2"],
}
"""Rounds of one step by the graph engine, which captures them in several ways."""


def numbers(saved, path=""):
    """All tensors and numbers of a checkpoint by their places, but for durations and the length of the record."""
    found = {}
    items = saved.items() if isinstance(saved, dict) else enumerate(saved)
    for key, value in items:
        place = f"{path}/{key}"
        if isinstance(value, dict | list | tuple):
            found |= numbers(value, place)
        elif isinstance(value, torch.Tensor | int | float) and "seconds" not in place and key != "num_recorded":
            found[place] = torch.as_tensor(value).double()
    return found


def assert_alike(folder, reference, tolerance, step=12):
    mine, theirs = numbers(saved_state(folder, step)), numbers(saved_state(reference, step))
    assert mine.keys() == theirs.keys()
    for place, expected in theirs.items():
        torch.testing.assert_close(mine[place], expected, **tolerance, msg=lambda text, place=place: f"{place}: {text}")


def test_every_engine_is_in_this_suite():
    assert set(TOLERANCES) == set(ENGINES)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Gives the folder of a run by the plain engine."""
    made = {}

    def find(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("plain") / "run"
            run("engine=plain", *RUNS[name], out=made[name])
        return made[name]

    return find


@pytest.mark.parametrize("engine", [name for name in TOLERANCES if name != "plain"])
@pytest.mark.parametrize("name", RUNS)
def test_models_optimizers_and_the_record_are_those_of_the_plain_engine(engine, name, reference, tmp_path):
    summary = run(f"engine={engine}", *RUNS[name], out=tmp_path / "run")
    assert summary["engine"] == engine
    is_rough = name == "bfloat16" and engine == "stacked"
    assert_alike(tmp_path / "run", reference(name), BF16 if is_rough else TOLERANCES[engine])
    mine, theirs = untimed_record(tmp_path / "run"), untimed_record(reference(name))
    assert [(event["event"], event["step"]) for event in mine] == [(event["event"], event["step"]) for event in theirs]
    if TOLERANCES[engine] == EXACT:
        assert mine == theirs


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=post-local"],
        ["algorithm=local", "optimizer.clip_norm=0.3"],
        ["algorithm=local", "precision=bfloat16", "channels_last=true"],
    ],
    ids=["float32", "clipped", "bfloat16"],
)
def test_batch_norm_has_statistics_of_each_worker_and_gradients_are_clipped(overrides, tmp_path):
    for engine in ("plain", "graph"):
        run(f"engine={engine}", *overrides, name="digits-cnn", out=tmp_path / engine)
    assert_alike(tmp_path / "graph", tmp_path / "plain", EXACT)
    first, second = (saved_state(tmp_path / "graph")[f"worker-000{worker}.pt"]["model"] for worker in (0, 1))
    if overrides[0] == "algorithm=local":  # 12 steps, the last sync after 10
        assert any(not torch.equal(first[name], second[name]) for name in first if "running_mean" in name)


@pytest.mark.parametrize("name", ONE_STEP)
def test_rounds_of_one_step_in_a_graph_are_those_of_the_plain_engine(name, tmp_path):
    summaries = [run(f"engine={e}", *ONE_STEP[name], name="digits-cnn", out=tmp_path / e) for e in ("plain", "graph")]
    assert [summary["engine"] for summary in summaries] == ["plain", "graph"]
    assert_alike(tmp_path / "graph", tmp_path / "plain", EXACT, summaries[0]["steps"])
    assert untimed_record(tmp_path / "graph") == untimed_record(tmp_path / "plain")


@pytest.mark.parametrize("engine", [name for name in TOLERANCES if name != "plain"])
@pytest.mark.parametrize(
    "overrides", [[], ["outer.name=nesterov"], ["optimizer.name=adamw", "optimizer.nesterov=false"]]
)
def test_a_run_that_diverges_ends_after_the_same_step_with_the_same_words(engine, overrides, tmp_path):
    wild = ["algorithm=minibatch", "optimizer.learning_rate=1e10", "optimizer.warmup_epochs=0", *overrides]
    messages = []
    for each in ("plain", engine):
        with pytest.raises(NonFiniteError, match=r"worker 0 of 4: .* is not finite") as caught:
            run(f"engine={each}", *wild, out=tmp_path / each)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert untimed_record(tmp_path / engine) == untimed_record(tmp_path / "plain")


def run_in_process(engine, overrides, folder):
    torch.set_num_threads(1)
    return run(f"engine={engine}", *overrides, name="digits-cnn", out=Path(folder))["engine"]


@pytest.mark.parametrize("overrides", [["algorithm=post-local"], ["algorithm=minibatch", "optimizer.clip_norm=0.1"]])
def test_two_processes_of_two_rows_train_as_one_of_four(overrides, processes, tmp_path):
    for engine, number in (("plain", 2), ("graph", 2), ("graph", 1)):
        folder = tmp_path / f"{engine}-{number}"
        assert processes(run_in_process, number, engine, overrides, str(folder)) == [engine] * number
    assert_alike(tmp_path / "graph-2", tmp_path / "plain-2", EXACT)
    assert untimed_record(tmp_path / "graph-2") == untimed_record(tmp_path / "plain-2")
    split, whole = (saved_state(tmp_path / name) for name in ("graph-2", "graph-1"))
    workers = [name for name in whole if name.startswith("worker")]
    assert len(workers) == 4
    mine, theirs = (numbers({name: saved[name] for name in workers}) for saved in (split, whole))
    # The processes' shares are added in another order, and BatchNorm and momentum let a rounding of 6e-8 grow over 12 steps.
    for place, expected in theirs.items():
        torch.testing.assert_close(mine[place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", TOLERANCES)
@pytest.mark.parametrize("name", ["local", "post-local", "AdamW, post-local", "a schedule that looks at losses"])
def test_an_interrupted_run_goes_on_bit_for_bit(engine, name, tmp_path):
    overrides = [f"engine={engine}", *RUNS[name]]
    unbroken = run(*overrides, out=tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        run(*overrides, out=tmp_path / "broken", watcher=Watcher(stop_after=6))
    resumed = run(*overrides, out=tmp_path / "broken", resume=True)
    assert untimed_summary(resumed) == untimed_summary(unbroken)
    assert_alike(tmp_path / "broken", tmp_path / "unbroken", EXACT)


@pytest.mark.parametrize(("begins", "ends"), [("plain", "stacked"), ("stacked", "graph"), ("graph", "plain")])
@pytest.mark.parametrize("name", ["local", "AdamW, post-local"])
def test_a_run_may_be_resumed_with_another_engine(begins, ends, name, reference, tmp_path):
    with pytest.raises(Interrupted):
        run(f"engine={begins}", *RUNS[name], out=tmp_path / "run", watcher=Watcher(stop_after=6))
    assert run(f"engine={ends}", *RUNS[name], out=tmp_path / "run", resume=True)["engine"] == ends
    assert_alike(tmp_path / "run", reference(name), ROUNDED)


@pytest.mark.parametrize("engine", TOLERANCES)
def test_saving_one_worker_does_not_save_the_others(engine, tmp_path):
    for workers in (4, 16):
        run(f"engine={engine}", "algorithm=local", f"workers={workers}", "batch_size=4", out=tmp_path / str(workers))
    sizes = [
        max(path.stat().st_size for path in (tmp_path / str(workers)).glob("checkpoints/*/worker-*.pt"))
        for workers in (4, 16)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_engines_have_their_names_and_meet_the_protocol():
    for name, make in ENGINES.items():
        assert make.name == name
        assert {"take_steps", "adopt"} <= set(dir(make)) & set(dir(Engine))


@pytest.mark.parametrize(
    ("engine", "overrides", "name", "reason"),
    [
        ("stacked", [], "digits-cnn", "model 'digits-cnn' has buffers that change as it trains"),
        ("stacked", ["optimizer.clip_norm=1"], "digits-mlp", "clip_norm looks at the norm of each worker's gradient"),
        ("stacked", ["optimizer.name=lars"], "digits-mlp", "LARS looks at the norm of each worker's tensors"),
        (
            "graph",
            ["optimizer.gradient_noise_variance=1e-5", "optimizer.gradient_noise_decay=1"],
            "digits-mlp",
            "gradient noise is drawn anew",
        ),
        ("graph", ["algorithm=growing-minibatch", "schedule.factor=2"], "digits-mlp", "made of several batches"),
        ("graph", ["optimizer.fused=false"], "digits-cnn", "fused=false reads the learning rate on the host"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_with_the_reason_and_auto_avoids_it(engine, overrides, name, reason):
    with pytest.raises(ArgumentError, match=f"engine='{engine}' cannot train this: .*{reason}.*; use engine=auto"):
        run(f"engine={engine}", *overrides, name=name)
    assert run(*overrides, "epochs=2", name=name)["engine"] == "plain"
