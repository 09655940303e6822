"""What every ratio in the reports rests on: which seconds count, and how repetitions are summed up."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def timing():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("_timing")
    sys.path.remove(str(FOLDER))


def test_only_what_a_contestant_does_after_the_warm_up_is_timed(timing, monkeypatch):
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    num_calls = dict.fromkeys("ab", 0)

    def block(name, seconds):
        num_calls[name] += 1
        clock.seconds += num_calls[name] * seconds

    def before():
        clock.seconds += 1000.0

    blocks = {"a": lambda: block("a", 1.0), "b": lambda: block("b", 10.0)}
    found = timing.interleave(blocks, num_warmups=2, num_repeats=3, before=before)
    assert found == {"a": [3.0, 4.0, 5.0], "b": [30.0, 40.0, 50.0]}


def test_repetitions_are_summed_up_whatever_their_order(timing):
    found = timing.spread([5.0, 1.0, 40.0, 2.0, 3.0])
    assert (found.lowest, found.lower_quartile, found.median, found.upper_quartile, found.highest) == (1, 2, 3, 5, 40)
    one = timing.spread([7.0])
    assert (one.lowest, one.lower_quartile, one.median, one.upper_quartile, one.median_interval) == (7, 7, 7, 7, (7, 7))
