"""One driver runs every benchmark: it goes on after what fails, and its report holds what there is, however it ends."""

import importlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
DRIVER = FOLDER / "_bench.py"
SCRIPTS = {
    "broken": 'print("about to"); raise RuntimeError("no such luck")',
    "quick": '''"""How quick?

Very."""
import sys
sys.path.insert(0, {folder!r})
from _command import make_parser, parse
from _report import Report
from _timing import spread
report = Report(__doc__, seed=0, smoke=False)
options = parse(make_parser(__doc__))
report.add_headline("time, cats", "ours", "raw", ratio=spread([1.0, 1.2, 1.3]), goal="at most 1.10", met=False)
report.add_headline("time, cats", "peer", "raw", ratio=spread([5.0, 5.0]))
report.add_headline("time, dogs", "ours", "raw", ratio=spread([1.0, 1.0, 1.0]), goal="at most 1.10", met=True)
report.add_headline("time, dogs", "absentee", "raw", ratio=None, note="not installed: no index")
report.add_goal("legs", "4", limit="at least 4", met=True)
report.write(options.out)
''',
    "rooty": 'print("skipped: needs root")',
    "slow": 'import time; print("begun", flush=True); time.sleep(60)',
}


@pytest.fixture
def scripts(tmp_path):
    """Makes a folder of some of these scripts."""

    def make(*names):
        folder = tmp_path / "scripts"
        folder.mkdir()
        for name in names:
            (folder / f"{name}.py").write_text(SCRIPTS[name].replace("{folder!r}", repr(str(FOLDER))))
        return folder

    return make


@pytest.fixture(scope="module")
def part():
    """Imports a part of the driver by its name, as it does itself."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


def command(folder, page, *arguments):
    return [sys.executable, "-W", "error", DRIVER, "--folder", folder, "--out", page, *arguments]


def test_the_report_has_what_succeeded_and_why_the_rest_did_not(scripts, tmp_path):
    page = tmp_path / "all.md"
    run = command(scripts("broken", "quick", "rooty", "slow"), page, "--limit", "4")
    answer = subprocess.run(run, capture_output=True, text=True, timeout=50, check=False)
    assert answer.returncode == 1, "a script failed"
    text = page.read_text(encoding="utf-8")
    rows = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert "time, cats ours raw 1.200 1.000..1.300 at most 1.10 missed ~" in rows
    assert "time, dogs ours raw 1.000 1.000..1.000 at most 1.10 met" in rows
    assert "peer 5.000 (5.000..5.000) -" in rows
    assert "absentee: not installed: no index." in rows
    assert "How quick? legs 4 at least 4 met" in rows
    assert any(
        re.fullmatch(r"broken failed: exit status 1 0\.0 .+ \[broken\.md\]\(all/broken\.md\)", row) for row in rows
    )
    assert any(row.startswith("rooty skipped: needs root 0.0 20") for row in rows), "and when that was"
    assert any(row.startswith("slow too long: ended after 0.1 minutes") for row in rows)
    assert "RuntimeError: no such luck" in rows
    assert text.index("time, cats") < text.index("Machine: "), "the answers come first"
    assert "How quick?" in (tmp_path / "all" / "quick.md").read_text()
    assert "begun" in (tmp_path / "all" / "slow.md").read_text()


def test_an_interrupted_run_leaves_a_report_of_what_there_is(scripts, tmp_path):
    page = tmp_path / "some.md"
    process = subprocess.Popen(command(scripts("quick", "slow"), page), stdout=subprocess.PIPE, text=True)
    try:
        while "slow" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    finally:
        process.kill()
    text = page.read_text(encoding="utf-8")
    assert process.returncode == 1
    assert "| quick " in text
    assert "time, cats" in text
    assert any("slow" in line and "stopped" in line for line in text.splitlines())


def test_a_stopped_report_goes_on_with_what_is_not_done(scripts, tmp_path):
    page, folder = tmp_path / "some.md", scripts("broken", "quick", "slow")
    subprocess.run(command(folder, page, "--only", "broken", "quick"), timeout=30, check=False)
    before = (tmp_path / "some" / "quick.md").read_text(encoding="utf-8")
    (folder / "broken.py").write_text('print("mended")')
    (folder / "slow.py").write_text(SCRIPTS["rooty"])
    resume = [sys.executable, "-W", "error", DRIVER, "--folder", folder, "--resume", page]
    answer = subprocess.run(resume, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 0, answer.stderr
    rows = [" ".join(line.replace("|", " ").split()) for line in page.read_text(encoding="utf-8").splitlines()]
    assert [row.split()[:2] for row in rows if row.split()[:1] in (["broken"], ["quick"], ["slow"])] == [
        ["broken", "done"],
        ["quick", "done,"],
        ["slow", "skipped:"],
    ]
    assert "time, cats ours raw 1.200 1.000..1.300 at most 1.10 missed ~" in rows, "what was measured stays"
    assert (tmp_path / "some" / "quick.md").read_text(encoding="utf-8") == before, "and is not measured again"
    assert any(row.startswith("- Command: ") and ", then `" in row for row in rows)


def test_figures_of_different_machines_are_not_mixed(scripts, tmp_path):
    page, folder = tmp_path / "some.md", scripts("rooty")
    subprocess.run(command(folder, page), timeout=30, check=True)
    record = tmp_path / "some" / "outcomes.json"
    saved = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(saved | {"known": saved["known"] | {"Machine": "an abacus"}}), encoding="utf-8")
    resume = [sys.executable, DRIVER, "--folder", folder, "--resume", page]
    answer = subprocess.run(resume, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 1
    assert "was measured with an abacus, and this is " in answer.stderr


def test_only_a_report_can_be_resumed(scripts, tmp_path):
    resume = [sys.executable, DRIVER, "--folder", scripts("rooty"), "--resume", tmp_path / "none.md"]
    answer = subprocess.run(resume, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 1
    assert "there is no none/outcomes.json beside it to go on from" in answer.stderr


def test_a_report_is_never_overwritten_by_the_driver(scripts, tmp_path):
    page = tmp_path / "old.md"
    page.write_text("of last year")
    answer = subprocess.run(command(scripts("rooty"), page), capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 1
    assert "exists already" in answer.stderr
    assert page.read_text() == "of last year"


def test_every_script_is_in_the_plan_and_unknown_names_are_refused(part):
    plan = part("_bench_plan").plan
    names = [entry.name for entry in plan(FOLDER, only=None, leave_out=["rows_throughput-cuda"])]
    assert sorted(names) == sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
    assert names[0] == "sync_cost"
    chosen = plan(FOLDER, only=["step_cost", "sync_cost"], leave_out=[])
    assert [entry.name for entry in chosen] == ["sync_cost", "step_cost"]
    with pytest.raises(ValueError, match="'sync_costs' is not a benchmark; there are sync_cost, "):
        plan(FOLDER, only=["sync_costs"], leave_out=[])


def test_figures_survive_a_line_that_was_cut_off(part, tmp_path, monkeypatch):
    headlines, path = part("_headlines"), tmp_path / "figures.jsonl"
    figure = headlines.Headline(question="q", contestant="c", reference="r", ratio=1.5, low=1.0, high=2.0)
    headlines.record(figure)
    assert not path.exists(), "nobody asked for it"
    monkeypatch.setenv(headlines.VARIABLE, str(path))
    headlines.record(figure)
    headlines.record(headlines.Goal(question="q", what="w", value="1", goal="2", met=True))
    path.write_text(path.read_text() + '{"kind": "Headl')
    (found,), (goal,) = headlines.read_records(path)
    assert found == figure
    assert goal.what == "w"
