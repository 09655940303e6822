"""Runs whose syncs overlap with steps, go by fragments, or both: by option, recorded, stopped and resumed."""

import re

import pytest

from localsgd import ArgumentError, Processes
from localsgd.lab.config import RunConfig
from localsgd.lab.interrupted import Interrupted
from tests.lab.small_runs import Watcher, config, run, saved_state, untimed_record, untimed_summary

LATE = ["algorithm=post-local", "period=4", "overlap_steps=2"]
BOTH = [*LATE, "fragments=2"]
SMALL = [*BOTH, "compression.name=int4", "compression.error_feedback=true"]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["overlap_steps=-1"], "overlap_steps=-1 must be >= 0; 0 waits for every sync."),
        (["fragments=0"], "fragments=0 must be >= 1; 1 sends the model whole."),
        (["overlap_steps=1", "overlap_mixing=1"], "overlap_mixing=1.0 must be in [0, 1)"),
        (["overlap_mixing=0.5"], "overlap_mixing=0.5 has no meaning with overlap_steps=0"),
    ],
)
def test_what_makes_no_sense_is_refused(assignments, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        config(*assignments)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["algorithm=local", "period=3", "overlap_steps=3"], "overlap_steps=3"),
        (["algorithm=local", "period=3", "fragments=4"], "fragments=4"),
        (["algorithm=local", "period=900", "fragments=800"], "fragments=800"),
    ],
)
def test_what_does_not_fit_the_schedule_or_the_model_is_refused_before_anything_is_written(
    assignments, message, tmp_path
):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        run(*assignments, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_minibatches_say_what_has_no_effect(tmp_path):
    run("algorithm=minibatch", "overlap_steps=2", "compression.name=sign", out=tmp_path)
    (warning,) = [event for event in untimed_record(tmp_path) if event["event"] == "warning"]
    expected = "overlap_steps=2, compression.name=sign: no effect with algorithm=minibatch, which sends gradients"
    assert warning["message"].startswith(expected)


def test_a_configuration_from_before_syncs_could_overlap_is_read():
    values = config().to_dict()
    for name in ("overlap_steps", "overlap_mixing", "fragments"):
        del values[name]
    assert RunConfig.from_dict(values) == config()


def test_minibatches_take_no_notice():
    plain = run("algorithm=minibatch")
    assert untimed_summary(run("algorithm=minibatch", "overlap_steps=2", "fragments=2")) == untimed_summary(plain)


def test_every_fragment_of_every_round_is_in_the_record(tmp_path):
    summary = run("algorithm=local", "period=4", "overlap_steps=2", "fragments=2", out=tmp_path)
    assert summary["overlap_steps"] == 2
    assert summary["fragments"] == 2
    assert summary["test_accuracy"] > 0.2
    syncs = [event for event in untimed_record(tmp_path) if event["event"] == "sync"]
    assert len(syncs) == summary["rounds"]
    assert [sync["round"] for sync in syncs] == list(range(1, len(syncs) + 1))
    pieces = [sync["fragment"] for sync in syncs if sync["kind"] == "parameters"]
    assert pieces == [index % 2 for index in range(len(pieces))]
    assert {sync["overlapped_steps"] for sync in syncs[:4]} == {2}


def test_a_compressed_model_crosses_in_fragments_while_workers_step():
    asked = ["algorithm=local", "period=4", "overlap_steps=2", "fragments=2"]
    plain, small = run(*asked), run(*asked, "compression.name=int4", "compression.error_feedback=true")
    assert small["rounds"] == plain["rounds"]
    assert small["test_accuracy"] > 0.2
    assert small["bytes_sent_per_worker"] / plain["bytes_sent_per_worker"] == pytest.approx(1 / 7, rel=0.2)


def test_a_whole_model_crosses_once_a_round_however_it_is_cut():
    plain = run("algorithm=local", "period=4")
    cut = run("algorithm=local", "period=4", "fragments=2")
    # Three rounds, and at the end everything once more: the first fragment had its turn two steps before. The facts ride
    # with every fragment.
    assert cut["bytes_sent_per_worker"] * 3 == pytest.approx(plain["bytes_sent_per_worker"] * 4, rel=0.01)


@pytest.mark.parametrize(
    "assignments", [LATE, BOTH, [*BOTH, "overlap_mixing=0.5"], SMALL], ids=["late", "both", "mixed", "small"]
)
@pytest.mark.parametrize("stop_after", [9, 10, 11])
def test_a_run_that_stops_with_a_sync_under_way_goes_on_bit_for_bit(assignments, stop_after, tmp_path):
    unbroken = untimed_summary(run(*assignments, "switch_at=0.2"))
    with pytest.raises(Interrupted):
        run(*assignments, "switch_at=0.2", out=tmp_path, watcher=Watcher(stop_after=stop_after))
    assert untimed_summary(run(*assignments, "switch_at=0.2", out=tmp_path, resume=True)) == unbroken


def stop(folder, assignments):
    with pytest.raises(Interrupted) as caught:
        run(*assignments, "switch_at=0.2", out=folder, watcher=Watcher(stop_after=9), communicator=Processes())
    return caught.value.step


def resume(folder, assignments):
    return run(*assignments, "switch_at=0.2", out=folder, resume=True, communicator=Processes())


@pytest.mark.parametrize(("num_processes", "assignments"), [(2, BOTH), (1, BOTH), (2, SMALL), (4, SMALL)])
def test_four_processes_with_a_sync_under_way_go_on_as_many_or_fewer(num_processes, assignments, tmp_path, processes):
    unbroken = run(*assignments, "switch_at=0.2")
    (step,) = set(processes(stop, 4, tmp_path, assignments))
    files = saved_state(tmp_path, step)
    assert files["run.pt"]["local"]["snapshots"] == {}
    alone = num_processes == 1
    resumed = (
        [run(*assignments, "switch_at=0.2", out=tmp_path, resume=True)]
        if alone
        else processes(resume, num_processes, tmp_path, assignments)
    )
    for summary in resumed:
        assert summary["test_loss"] == pytest.approx(unbroken["test_loss"], rel=1e-3)
        assert summary["rounds"] == unbroken["rounds"]


@pytest.mark.parametrize("engine", ["stacked", "graph"])
def test_every_engine_stops_where_a_sync_lands(engine):
    plain = run(*BOTH, "switch_at=0.2", "engine=plain")
    other = run(*BOTH, "switch_at=0.2", f"engine={engine}")
    assert other["rounds"] == plain["rounds"]
    assert other["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-4)


def test_losses_that_a_schedule_looks_at_outlive_a_stop_between_two_fragments(tmp_path):
    asked = ["algorithm=adacomm", "period=6", "fragments=2", "schedule.interval_epochs=1"]
    unbroken = run(*asked, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(*asked, out=tmp_path / "broken", watcher=Watcher(stop_after=4))
    assert untimed_summary(run(*asked, out=tmp_path / "broken", resume=True)) == untimed_summary(unbroken)
    both = [
        [event["train_loss"] for event in untimed_record(tmp_path / name) if event["event"] == "sync"]
        for name in ("whole", "broken")
    ]
    assert both[0] == both[1]


def test_syncs_of_blocks_and_of_everyone_that_meet_are_both_in_the_record(tmp_path):
    asked = ["algorithm=hierarchical", "block_size=2", "period=2", "block_period=2", "overlap_steps=2"]
    summary = run(*asked, out=tmp_path)
    syncs = [event for event in untimed_record(tmp_path) if event["event"] == "sync"]
    assert len(syncs) == summary["rounds"]
    assert {sync["level"] for sync in syncs} == {1, 2}
