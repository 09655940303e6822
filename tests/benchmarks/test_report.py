"""What a report says of a goal, on its page and to the driver, is what was found."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def part():
    """Imports a shared part by its name, as the scripts do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


def test_a_goal_that_was_missed_is_called_so_everywhere(part, tmp_path, monkeypatch, capsys):
    headlines, path = part("_headlines"), tmp_path / "headlines.jsonl"
    monkeypatch.setenv(headlines.VARIABLE, str(path))
    report = part("_report").Report("How long?", seed=0, smoke=False)
    report.add_goal("the walk", "3 h", limit="at most 2 h", met=False)
    report.add_goal("the ride", "1 h", limit="at most 2 h", met=True)
    ratio = part("_timing").spread([float(number) for number in range(1, 22)])
    report.add_headline("which is longer", "walk", "ride", ratio=ratio, goal="at most 2.00", met=False)
    report.write(tmp_path / "page.md")
    found, goals = headlines.read_records(path)
    assert [(goal.what, goal.value, goal.goal, goal.met) for goal in goals] == [
        ("the walk", "3 h", "at most 2 h", False),
        ("the ride", "1 h", "at most 2 h", True),
    ]
    assert [(one.ratio, one.low, one.high, one.met) for one in found] == [(11.0, *ratio.median_interval, False)]
    assert ratio.lowest < ratio.median_interval[0]
    for text in (capsys.readouterr().out, (tmp_path / "page.md").read_text(encoding="utf-8")):
        assert "goal missed: the walk is 3 h (goal: at most 2 h)" in text
        assert "goal met: the ride is 1 h (goal: at most 2 h)" in text
