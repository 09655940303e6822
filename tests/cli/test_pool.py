"""Processes that a command starts by itself: real ones, few tests, since each takes seconds to start."""

import json
import os
import re
import resource
import shlex
import signal
import time
from pathlib import Path

import pytest

RUN = ("train", "digits-mlp", "--algorithm", "local", "--workers", "4", "--period", "3", "--epochs", "4")
SMALL = ("--train-limit", "320", "--set", "data.test_limit=20", "--set", "evaluate_every_epochs=none")
POOL = ("--processes", "2")
ENDLESS = ("--epochs", "30000")


def children(process):
    """The processes of a pool, by number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            is_ours = int(fields[1]) == process.pid and b"spawn_main" in (path.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_ours:
            found.append(int(path.parent.name))
    return sorted(found)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def syncs(folder):
    """What the record says of each sync, apart from its duration; and how far the workers had drifted."""
    events = map(json.loads, (folder / "record.jsonl").read_text(encoding="utf-8").splitlines())
    names = ("step", "round", "level", "kind", "bytes_by_level", "learning_rate", "finite_workers")
    return [([event[name] for name in names], event["drift_norm"]) for event in events if event["event"] == "sync"]


@pytest.fixture
def begun(program, wait_until, tmp_path):
    """Start an endless run on two processes, and wait until it has synced."""

    def begin(*arguments):
        folder = tmp_path / "run"
        process = program.start("-m", "localsgd", *RUN, *SMALL, *ENDLESS, *POOL, *arguments, "--out", folder)
        record = folder / "record.jsonl"
        wait_until(lambda: process.poll() is not None or (record.exists() and record.stat().st_size > 0))
        started = children(process)
        assert len(started) == 2
        return process, started, folder

    return begin


@pytest.mark.slow
def test_the_run_is_the_same_and_resumes_on_as_many_processes_to_the_same_bits(program, wait_until, localsgd, tmp_path):
    longer = (*RUN, *SMALL, "--epochs", "100", "--json")
    whole = program.start("-m", "localsgd", *longer, *POOL, "--out", tmp_path / "whole")
    folder = tmp_path / "broken"
    broken = program.start("-m", "localsgd", *longer, *POOL, "--out", folder)
    record = folder / "record.jsonl"
    wait_until(lambda: record.exists() and record.stat().st_size > 0)
    broken.send_signal(signal.SIGINT)
    alone = json.loads(localsgd(*longer, "--out", tmp_path / "alone").out)

    outcome = program.wait(broken)
    assert (outcome.status, outcome.out) == (130, "")
    first, *_, asked, message = outcome.err.splitlines()
    assert first == "2 processes with 2 workers and 1 thread each: as asked"
    assert asked == "stopping after the next sync; press Ctrl-C again to stop at once"
    advice = shlex.split(re.fullmatch(r"interrupted at step \d+ of 1000; continue with: (.*)", message)[1])
    assert advice == ["localsgd", *map(str, longer), *POOL, "--out", str(folder), "--resume"]
    without_number = [word for word in advice[1:] if word not in POOL]
    resumed = program.run("-m", "localsgd", *without_number)
    assert resumed.err.startswith("2 processes with 2 workers and 1 thread each: as many as the run was begun with\n")

    unbroken, gone_on = json.loads(program.wait(whole).out), json.loads(resumed.out)
    assert gone_on["train_loss"] == unbroken["train_loss"]
    assert gone_on["test_loss"] == unbroken["test_loss"]
    assert (unbroken["processes"], unbroken["threads"], unbroken["wire_bytes"]) == (2, 1, 0)
    same = "samples steps rounds bytes_sent_per_worker"
    assert [unbroken[name] for name in same.split()] == [alone[name] for name in same.split()]
    assert unbroken["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)
    ours, theirs = (syncs(tmp_path / name) for name in ("whole", "alone"))
    assert [log for log, _ in ours] == [log for log, _ in theirs]
    assert [drift for _, drift in ours] == pytest.approx([drift for _, drift in theirs], rel=1e-2)
    assert syncs(folder) == ours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "arguments", "rest"),
    [
        (0, (), r"nothing was saved: begin anew with: localsgd train .* --resume"),
        (1, ("--set", "checkpoint_every_epochs=1"), r"go on from step-\d{8} with: localsgd train .* --resume"),
    ],
)
def test_a_process_that_is_killed_is_named_and_nothing_is_left(program, begun, wait_until, rank, arguments, rest):
    process, started, folder = begun(*arguments)
    if arguments:
        wait_until(lambda: list(folder.glob("checkpoints/step-????????")))
    os.kill(started[rank], signal.SIGKILL)
    outcome = program.wait(process, timeout=30)
    assert (outcome.status, outcome.out) == (1, "")
    *lines, last = outcome.err.splitlines()
    assert re.fullmatch(rf"error: process {rank} of 2 was killed by SIGKILL; {rest}", last), outcome.err
    assert "Traceback" not in outcome.err
    assert not [line for line in lines if "error" in line]
    assert not any(map(is_running, started))


@pytest.mark.slow
def test_when_the_process_that_was_started_is_killed_the_others_end(program, begun, wait_until):
    process, started, _ = begun()
    process.kill()
    wait_until(lambda: not any(map(is_running, started)), timeout=10)
    program.wait(process)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_even_in_a_long_round(program, wait_until, tmp_path):
    folder = tmp_path / "run"
    slow = ("--batch-size", "64", "--period", "1000", "--set", "model.name=resnet110", "--set", "channels_last=false")
    process = program.start("-m", "localsgd", *RUN, *SMALL[2:], *slow, *ENDLESS, *POOL, "--out", folder)
    wait_until((folder / "config.json").exists)
    started = children(process)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    outcome = program.wait(process, timeout=30)
    assert time.monotonic() - begin < 15
    assert outcome.status == 130
    assert "Traceback" not in outcome.err
    assert not any(map(is_running, started))


@pytest.mark.slow
def test_when_there_is_no_room_for_the_record_all_end_with_one_message(program, begun):
    process, started, folder = begun()
    for pid in started:
        # The system refuses to let any file grow beyond this.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    outcome = program.wait(process, timeout=40)
    assert outcome.status == 1
    errors = [line for line in outcome.err.splitlines() if "error" in line]
    record = folder / "record.jsonl"
    assert errors == [f"error: {record}: [Errno 27] File too large; check that there is room, then resume the run."]
    assert "Traceback" not in outcome.err
    assert not any(map(is_running, started))


@pytest.mark.slow
def test_without_memory_to_share_the_processes_exchange_through_sockets_and_say_so(program, tmp_path):
    few_bytes = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    run = "import runpy; runpy.run_module('localsgd', run_name='__main__', alter_sys=True)"
    outcome = program.run("-c", f"{few_bytes}; {run}", *RUN, *SMALL, *POOL, "--json", "--out", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    warning = (
        "warning: process 0 of 2 cannot share memory: [Errno 27] File too large. The processes exchange through sockets"
    )
    assert outcome.err.count(f"{warning}, which is slower.\n") == 1
    assert json.loads(outcome.out)["wire_bytes"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_the_start_is_answered_once_and_nothing_is_left(program, wait_until, tmp_path, number):
    folder = tmp_path / "run"
    process = program.start("-m", "localsgd", *RUN, *SMALL, *ENDLESS, *POOL, "--out", folder)
    wait_until(lambda: len(children(process)) == 2)
    started = children(process)
    os.killpg(process.pid, number)  # as a terminal does: these have no session of their own yet
    outcome = program.wait(process, timeout=40)
    _, *rest = outcome.err.splitlines()
    assert (outcome.status, rest) == (128 + number, ["interrupted"])
    assert not any(map(is_running, started))
    assert not folder.exists()


def test_what_is_asked_for_wrongly_is_said_before_anything_starts(localsgd, tmp_path):
    outcome = localsgd(*RUN, "--processes", "3", "--out", tmp_path / "run")
    assert outcome.status == 2
    assert outcome.err.startswith("error: --processes=3 must divide workers=4")
    assert not (tmp_path / "run").exists()
