"""What is seen of a run while it goes on."""

import dataclasses
import re
import time

import pytest

from localsgd.cli.interruption import Interruption
from localsgd.cli.progress import ProgressView
from localsgd.lab.plan import make_plan
from localsgd.lab.recipes import recipe

STEPS = 40


@pytest.fixture
def plan():
    """40 steps, ten an epoch, of which post-local syncs the first 20 and then every fifth."""
    sizes = ["workers=2", "batch_size=8", "epochs=4", "period=5", "data.train_limit=160"]
    return make_plan(recipe("digits-mlp").overridden([*sizes, "algorithm=local"]), num_samples=160)


def watch(plan, *, is_shown=True, seconds=0.0, warned=None):
    """Tell a view of a whole run, evenly over some time."""
    warned = set() if warned is None else warned
    with ProgressView("local", interruption=Interruption(), is_shown=is_shown, warned=warned) as view:
        view.begin(plan)
        view.event({"event": "warning", "step": 0, "message": "look out"})
        for step in range(1, STEPS + 1):
            if step % 5 == 0:
                view.event({"event": "sync", "step": step, "round": step // 5, "bytes_sent": 1_000_000})
            view.step(step)
            if step % 10 == 0:
                view.event({"event": "epoch", "step": step, "train_loss": 1 / step})
                view.event({"event": "evaluation", "step": step, "test_accuracy": step / 100})
            time.sleep(seconds / STEPS)
        view.conclude({"test_accuracy": 0.4, "wall_seconds": 65.0})


def test_without_a_terminal_a_line_an_epoch_is_printed(plan, capsys):
    watch(plan)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "local: 40 steps of 2 x 8 samples, 8 rounds",
        "warning: look out",
        "local: epoch 1.0 of 4, loss 0.100, test accuracy 10.00 %, 2 rounds, 2.00 MB sent",
        "local: epoch 2.0 of 4, loss 0.0500, test accuracy 20.00 %, 4 rounds, 4.00 MB sent",
        "local: epoch 3.0 of 4, loss 0.0333, test accuracy 30.00 %, 6 rounds, 6.00 MB sent",
        "local: finished, test accuracy 40.00 %, 1 min 05 s",
    ]


def test_the_first_line_tells_of_an_arithmetic_that_is_not_the_plainest(plan, capsys):
    config = plan.config.overridden(["precision=bfloat16", "channels_last=true"])
    watch(dataclasses.replace(plan, config=config))
    assert capsys.readouterr().err.startswith("local: 40 steps of 2 x 8 samples, 8 rounds, bfloat16, channels last\n")


def test_a_long_run_prints_about_twenty_lines(localsgd, tmp_path):
    sizes = ("--workers", "2", "--batch-size", "8", "--train-limit", "16", "--epochs", "200")
    outcome = localsgd("train", "digits-mlp", *sizes, "--out", tmp_path / "run", "--json")
    lines = [line for line in outcome.err.splitlines() if "epoch" in line and "warning" not in line]
    assert 18 <= len(lines) <= 20


def test_a_process_that_is_not_shown_says_nothing(plan, capsys, terminal):
    watch(plan, is_shown=False)
    with terminal():
        watch(plan, is_shown=False)
    assert capsys.readouterr().err == ""
    assert terminal.shown == ""


def test_a_terminal_has_a_bar_that_is_refreshed_at_most_eight_times_a_second_and_goes_away(plan, terminal):
    with terminal():
        start = time.monotonic()
        watch(plan, seconds=0.6)
        elapsed = time.monotonic() - start
    shown = terminal.shown
    # At every refresh, and once each at the beginning, below the warning, at the first step, and when it stops.
    refreshes = len(re.findall(r"/40", shown))
    assert 4 <= refreshes <= 8 * elapsed + 4
    assert "epoch 2" in shown
    assert "MB sent" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("/40")
    assert shown.splitlines()[-1].endswith("local: finished, test accuracy 40.00 %, 1 min 05 s")


def test_the_bar_fits_into_sixty_columns(plan, terminal):
    with terminal(columns=60):
        watch(plan, seconds=0.3)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown).replace("\r", "\n").splitlines()
    assert any("━" in line for line in lines)
    assert max(len(line) for line in lines) <= 60


def test_a_warning_that_was_shown_for_an_earlier_run_is_not_shown_again(plan, capsys):
    warned = set()
    watch(plan, warned=warned)
    watch(plan, warned=warned)
    assert capsys.readouterr().err.count("look out") == 1


def test_a_resumed_run_says_where_it_goes_on_and_not_how_little_it_sent(plan, capsys):
    watch(plan.resumed(2))
    shown = capsys.readouterr().err
    assert "8 rounds, resumed after step 2\n" in shown
    assert "sent" not in shown


def test_a_line_tells_of_its_epoch_and_not_of_the_next_step(plan, capsys):
    with ProgressView("local", interruption=Interruption(), is_shown=True, warned=set()) as view:
        view.begin(plan)
        for step in range(1, STEPS + 1):
            view.event({"event": "sync", "step": step, "round": step, "bytes_sent": 1_000_000})
            view.step(step)
            if step % 10 == 0:
                view.event({"event": "epoch", "step": step, "train_loss": 1 / step})
    assert [line.partition("loss ")[2] for line in capsys.readouterr().err.splitlines()[1:]] == [
        "0.100, 10 rounds, 10.0 MB sent",
        "0.0500, 20 rounds, 20.0 MB sent",
        "0.0333, 30 rounds, 30.0 MB sent",
    ]


def test_a_score_of_an_earlier_epoch_is_told_with_its_epoch(plan, capsys):
    with ProgressView("local", interruption=Interruption(), is_shown=True, warned=set()) as view:
        view.begin(plan)
        for step in range(1, STEPS + 1):
            view.step(step)
            if step % 10 == 0:
                view.event({"event": "epoch", "step": step, "train_loss": 1 / step})
            if step == 20:
                view.event({"event": "evaluation", "step": step, "test_accuracy": 0.2})
    assert [line.partition("loss ")[2] for line in capsys.readouterr().err.splitlines()[1:]] == [
        "0.100",
        "0.0500, test accuracy 20.00 %",
        "0.0333, test accuracy 20.00 % (epoch 2.0)",
    ]
