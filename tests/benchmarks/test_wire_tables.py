"""What shaped_network makes of measured times and bytes: the goals, on numbers whose answers are known."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NUM_REPEATS, NUM_RAW_CALLS = 3, 2


@pytest.fixture(scope="module")
def part():
    """Imports a shared part by its name, as the scripts do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture
def network(part):
    return part("_wire_network").Network(megabits=100, workers=2)


@pytest.fixture
def judged(part, tmp_path, monkeypatch):
    """Begins a report; gives it, and a function that tells which goals it has judged, and how."""
    headlines = part("_headlines")
    path = tmp_path / "headlines.jsonl"
    monkeypatch.setenv(headlines.VARIABLE, str(path))
    report = part("_report").Report("What is true?", seed=0, smoke=True)

    def goals():
        return {goal.what: (goal.value, goal.met) for goal in headlines.read_records(path)[1]}

    return report, goals


def measured(seconds, *, raw):
    """Two processes, of which now one is slower, now the other; the network is ten times slower in the second repetition."""
    pace = [1.0, 10.0, 1.0]
    lags = [[1.0, 0.5, 1.0], [0.5, 1.0, 0.5]]
    return [
        {
            "seconds": {name: [s * p * lag for p, lag in zip(pace, own, strict=True)] for name, s in seconds.items()},
            "raw": [raw * p * lag for p, lag in zip(pace, own, strict=True) for _ in range(NUM_RAW_CALLS)],
            "counted": dict.fromkeys(seconds, (8000.0, None)),
            "activity": {name: [(1.0, 2.0)] * NUM_REPEATS for name in seconds},
            "sums": {},
        }
        for own in lags
    ]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # T is 80 ms, so steps of 10 ms should take 20 with H = 8, and 12.5 with H = 32.
        (
            {"EVERY_8": 0.020, "EVERY_32": 0.0125, "BFLOAT16": 0.015, "BESIDE": 0.012, "OVERLAPPED": 0.0135},
            {
                "throughput of {EVERY_8}, {title}": ("4.50x", True),
                "throughput of {EVERY_32}, {title}": ("7.20x", True),
                "throughput of {BFLOAT16}, {title}": ("6.00x", True),
                "{EVERY_8} beyond compute + T / H, {title}": ("+0.0%", True),
                "{EVERY_32} beyond compute + T / H, {title}": ("+0.0%", True),
                "share of what {EVERY_8} waits for that {OVERLAPPED} hides, {title}": ("65%", True),
            },
        ),
        (
            {"EVERY_8": 0.030, "EVERY_32": 0.010, "BFLOAT16": 0.020, "BESIDE": 0.015, "OVERLAPPED": 0.025},
            {
                "throughput of {EVERY_8}, {title}": ("3.00x", False),
                "throughput of {EVERY_32}, {title}": ("9.00x", True),
                "throughput of {BFLOAT16}, {title}": ("4.50x", False),
                "{EVERY_8} beyond compute + T / H, {title}": ("+50.0%", False),
                "{EVERY_32} beyond compute + T / H, {title}": ("-20.0%", False),  # too fast is not as predicted either
                "share of what {EVERY_8} waits for that {OVERLAPPED} hides, {title}": ("25%", False),
            },
        ),
    ],
    ids=["all are met", "most are missed"],
)
def test_training_is_judged_by_the_slowest_process_of_each_repetition(part, network, judged, capsys, times, expected):
    contestants, tables = part("_wire_contestants"), part("_wire_tables")
    seconds = dict.fromkeys(contestants.training_ways(network), 0.05)
    seconds |= {contestants.DDP: 0.090, contestants.ALONE: 0.010}
    seconds |= {getattr(contestants, name): value for name, value in times.items()}
    report, goals = judged
    tables.present_training(report, measured(seconds, raw=0.08), network=network, num_samples=128)
    found = {what: (value.split(" ")[0], met) for what, (value, met) in goals().items()}
    names = {name: getattr(contestants, name) for name in times} | {"title": network.title}
    assert found == {what.format(**names): answer for what, answer in expected.items()}
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {contestants.DDP} ")]
    assert {"1.00x", "90.0 ms", "35.2 s", "8.0 kB", "nothing"} <= {cell.strip() for cell in row.split("|")}


def test_where_steps_hardly_wait_nobody_is_asked_how_much_of_that_is_hidden(part, network, judged):
    contestants, tables = part("_wire_contestants"), part("_wire_tables")
    seconds = dict.fromkeys(contestants.training_ways(network), 0.0104)  # 4% beyond computation
    seconds[contestants.ALONE] = 0.010
    report, goals = judged
    assert tables.present_training(report, measured(seconds, raw=0.0032), network=network, num_samples=128) == []
    assert not any("hides" in what for what in goals())


@pytest.mark.parametrize(
    ("slow", "many", "expected"),
    [(1.05, 4_000, [("1.05", True), ("0.50", True)]), (1.2, 6_000, [("1.20", False), ("0.75", False)])],
)
def test_a_sum_host_by_host_is_held_against_the_floor_and_its_bytes_against_the_flat_sum(
    part, network, judged, slow, many, expected
):
    tables = part("_wire_tables")
    times = {tables.FLOOR_SUM: 1.0, tables.FLAT_SUM: 1.5, tables.HOSTS_SUM: slow}
    sent = {tables.FLOOR_SUM: 4_000, tables.FLAT_SUM: 8_000, tables.HOSTS_SUM: many}
    found = [
        {
            "sums": {
                4_000: {
                    "seconds": {name: [value * lag, value] for name, value in times.items()},
                    "counted": {name: (count, None) for name, count in sent.items()},
                }
            }
        }
        for lag in (1.0, 0.5)
    ]
    report, goals = judged
    tables.present_sums(report, found, network)
    assert list(goals().values()) == expected
