"""`localsgd compare`: one run after another, one table, and nothing begun that cannot be ended."""

import json
import shutil

QUICK = ("compare", "digits-mlp", "--workers", "2", "--batch-size", "8", "--train-limit", "64", "--epochs", "2")
ALGORITHMS = ("minibatch", "local", "post-local")


def test_one_table_has_a_row_for_each_algorithm_and_says_what_was_alike(localsgd, tmp_path):
    outcome = localsgd(*QUICK, "--period", "3", "--seed", "4", "--out", tmp_path / "all")
    assert outcome.status == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    table = {row[0]: row[1:] for row in rows if row and row[0] in ALGORITHMS}
    assert list(table) == list(ALGORITHMS)
    # test accuracy and its sign, train loss, rounds, bytes and their unit, seconds
    rounds = [row[3] for row in table.values()]
    assert rounds == ["8", "3", "6"]
    for text in ("K = 2 workers", "B = 8 samples", "H = 3 steps", "seed 4", "cpu", "consensus model"):
        assert text in outcome.out
    for name in ALGORITHMS:
        assert (tmp_path / "all" / name / "summary.json").exists()


def test_the_table_fits_into_sixty_columns(localsgd, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    outcome = localsgd(*QUICK, "--out", tmp_path / "all")
    table = outcome.out.split("K = ")[0]
    assert max(len(line) for line in table.splitlines()) <= 60
    assert "…" not in table


def test_with_blocks_the_table_splits_the_bytes_and_fits_into_eighty_columns(localsgd, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    blocks = ("--workers", "4", "--period", "2", "--block-size", "2", "--block-period", "2")
    every = ("--algorithms", "minibatch,local,post-local,hierarchical")
    outcome = localsgd(*QUICK, *blocks, "--epochs", "4", *every, "--out", tmp_path / "all")
    assert outcome.status == 0
    header = outcome.out.split("─")[0]
    assert "sent inside" in header
    assert "sent between" in header
    assert max(len(line) for line in outcome.out.splitlines() if not line.startswith("run folders")) <= 80
    rows = [line.split() for line in outcome.out.splitlines()]
    # test accuracy and its sign, train loss, rounds, bytes inside and their unit, bytes between and their unit, seconds
    table = {row[0]: row[5:9] for row in rows if row and row[0] in {*ALGORITHMS, "hierarchical"}}
    # 8 steps of a vector of 38.5 kB: 3/4 of it twice around a ring of four, half of which stays inside.
    assert table["minibatch"] == ["231", "kB", "231", "kB"]
    assert table["local"] == ["116", "kB", "116", "kB"]
    # 4 syncs inside blocks; 2 of everyone, half of the vector from each of two blocks.
    assert table["hierarchical"] == ["154", "kB", "38.5", "kB"]
    assert "K' = 2 workers in a block, Hb = 2 rounds between averages of all" in outcome.out


def test_json_prints_the_list_of_summaries_in_the_order_asked_for(localsgd, tmp_path):
    outcome = localsgd(*QUICK, "--algorithms", "local, minibatch", "--json", "--out", tmp_path / "all")
    assert [summary["algorithm"] for summary in json.loads(outcome.out)] == ["local", "minibatch"]
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"local", "minibatch"}


def test_every_algorithm_starts_from_the_same_seed_and_sees_as_many_samples(localsgd, tmp_path):
    summaries = json.loads(localsgd(*QUICK, "--json", "--out", tmp_path / "all").out)
    assert {summary["samples"] for summary in summaries} == {128}
    assert {summary["seed"] for summary in summaries} == {0}


def test_resuming_keeps_finished_runs_and_begins_missing_ones(localsgd, tmp_path, files_below):
    first = json.loads(localsgd(*QUICK, "--json", "--out", tmp_path / "all").out)
    shutil.rmtree(tmp_path / "all" / "local")
    before = files_below(tmp_path / "all" / "minibatch")
    outcome = localsgd(*QUICK, "--json", "--out", tmp_path / "all", "--resume")
    assert outcome.status == 0
    again = json.loads(outcome.out)
    assert [again[0], again[2]] == [first[0], first[2]]
    assert again[1]["test_loss"] == first[1]["test_loss"]
    assert files_below(tmp_path / "all" / "minibatch") == before


def test_one_folder_in_use_stops_all_before_the_first_run(localsgd, tmp_path, files_below):
    localsgd(*QUICK, "--algorithms", "post-local", "--out", tmp_path / "all")
    before = files_below(tmp_path)
    outcome = localsgd(*QUICK, "--out", tmp_path / "all")
    assert outcome.status == 1
    assert "post-local holds a run already" in outcome.err
    assert files_below(tmp_path) == before


def test_a_switch_past_the_end_stops_all_before_the_first_run(localsgd, tmp_path):
    outcome = localsgd(*QUICK, "--switch-at", "0.99", "--out", tmp_path / "all")
    assert outcome.status == 2
    assert "must lie inside the run" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_resuming_with_another_seed_stops_all_before_the_first_run(localsgd, tmp_path, files_below):
    localsgd(*QUICK, "--algorithms", "post-local", "--out", tmp_path / "all")
    before = files_below(tmp_path)
    outcome = localsgd(*QUICK, "--seed", "3", "--out", tmp_path / "all", "--resume")
    assert outcome.status == 2
    assert "seed=3 differs from 0" in outcome.err
    assert files_below(tmp_path) == before


def test_a_warning_is_shown_once_for_all_runs(localsgd, tmp_path):
    outcome = localsgd(*QUICK, "--out", tmp_path / "all")
    assert outcome.err.count("warning: ") == 1


def test_each_setting_of_schedules_goes_to_the_algorithm_that_it_belongs_to(localsgd, tmp_path):
    names = ("local", "growing-minibatch", "qsr", "adacomm", "drift-triggered")
    given = ("alpha=0.01", "threshold=0.5", "factor=2", "lowest_loss=0.1", "interval_epochs=1", "shrink=0.5")
    settings = [word for setting in given for word in ("--set", f"schedule.{setting}")]
    arguments = ("--period", "2", "--algorithms", ",".join(names), *settings, "--json")
    outcome = localsgd(*QUICK, *arguments, "--out", tmp_path / "all")
    assert outcome.status == 0
    assert {summary["algorithm"]: summary["schedule"] for summary in json.loads(outcome.out)} == {
        "local": {},
        "growing-minibatch": {"factor": 2},
        "qsr": {"alpha": 0.01},
        "adacomm": {"lowest_loss": 0.1, "interval_epochs": 1.0, "shrink": 0.5},
        "drift-triggered": {"threshold": 0.5},
    }


def test_a_setting_that_no_algorithm_of_the_comparison_uses_is_refused(localsgd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = localsgd(*QUICK, "--algorithms", "minibatch,local", "--set", "schedule.alpha=0.1")
    assert outcome.status == 2
    expected = "--set schedule.alpha=0.1 belongs to qsr, which is not among --algorithms=minibatch,local; add qsr, or"
    assert expected in outcome.err
    outcome = localsgd(*QUICK, "--algorithms", "local,qsr", "--set", "schedule.alpha=-1")
    assert "schedule.alpha=-1.0 must be a finite number > 0" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_finds_out_before_its_first_run(localsgd, tmp_path):
    asked = ["--algorithms", "local,adacomm", "--workers", "4", "--period", "4", "--overlap-steps", "3"]
    outcome = localsgd("compare", "digits-mlp", *asked, "--epochs", "2", "--out", tmp_path / "both")
    assert outcome.status == 2
    assert "error: algorithm=adacomm: overlap_steps=3 cannot be combined with" in outcome.err
    assert not (tmp_path / "both").exists()
