"""Every benchmark runs: a tiny pass of each script in a process of its own, bounded in time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[!_]*.py"))
IN_TURN = {"shaped_network.py"}
"""Those that build network namespaces: tests look at which there are on the whole machine."""


def run(script, *arguments):
    command = [sys.executable, "-W", "error", FOLDER / script, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=55)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # the script's own processes as well
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_there_are_scripts_to_run():
    assert {"rows_cost.py", "step_cost.py", "sync_cost.py"} <= {*SCRIPTS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=[pytest.mark.one_at_a_time] * (name in IN_TURN)) for name in SCRIPTS]
)
def test_a_smoke_run_judges_its_goals_and_writes_what_it_printed(script, tmp_path):
    page = tmp_path / "report.md"
    answer = run(script, "--smoke", "--out", page)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    if answer.stdout.startswith("skipped: "):
        pytest.skip(answer.stdout.strip())
    written = page.read_text(encoding="utf-8")
    for piece in answer.stdout.removesuffix(f"written to {page}\n").strip().split("\n\n"):
        assert piece in written
    assert "?" in written.splitlines()[0], "a benchmark's title is its question"
    assert "\ngoal met: " in written or "\ngoal missed: " in written
    for fact in ("Date", "Commit", "Versions", "Machine", "Command", "Seed"):
        assert f"\n- {fact}: " in written
    assert f"`python benchmarks/{script} --smoke`" in written


def test_a_report_is_never_overwritten(tmp_path):
    page = tmp_path / "report.md"
    page.write_text("of last year")
    answer = run("step_cost.py", "--smoke", "--out", page)
    assert answer.returncode == 2
    assert "exists already; name another file." in answer.stderr
    assert page.read_text() == "of last year"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_list_of_questions_names_every_script(script):
    assert f"`{script}`" in (FOLDER / "README.md").read_text(encoding="utf-8")
