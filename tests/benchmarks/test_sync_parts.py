"""What sync_cost and sync_scale trust: contestants are verified and counted, and fits find what is there."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SHAPES = [(3, 4), (5,), ()]


@pytest.fixture(scope="module")
def part():
    """Imports a shared part by its name, as the scripts do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture
def alone():
    """A group of this process alone, as if it were number 1 of others: its mean is its own."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_collectives_are_counted_whoever_enters_them(part, alone):
    contestants = part("_averagers").CONTESTANTS
    measuring = part("_sync_measuring")
    expected = {
        "raw all_reduce": 1,
        "localsgd": 1,
        "DDP, a backward pass": 1,  # entered in C++
        "PyTorch HierarchicalModelAverager": 1,
        "one collective a parameter": len(SHAPES),
    }
    for name, count in expected.items():
        contestant = contestants[name](SHAPES)
        for _ in range(2):
            contestant.sync()
        assert measuring.count_collectives(contestant.sync) == count, name


def test_a_contestant_that_does_not_average_is_refused(part, alone):
    measuring, wrong = part("_sync_measuring"), torch.zeros(3)
    idle = measuring.Contestant(tensors=lambda: [wrong], sync=lambda: wrong.add_(1))
    with pytest.raises(RuntimeError, match=r"idle did not replace the parameters by 0\.0 on process 0"):
        measuring.verify("idle", idle)


def test_seconds_are_those_of_one_call_after_the_warm_up(part, alone, monkeypatch):
    measuring, clock, calls = part("_sync_measuring"), SimpleNamespace(seconds=0.0), []
    monkeypatch.setattr(part("_timing"), "time", SimpleNamespace(perf_counter=lambda: clock.seconds))

    def sync():
        clock.seconds += 1.0
        calls.append(float(len(calls)))

    mine = measuring.Contestant(tensors=list, sync=sync, own_seconds=calls)
    settings = measuring.Settings(num_warmups=2, num_repeats=3, num_calls=4, pause_seconds=0.0)
    found = measuring.measure({"mine": mine}, settings)
    assert found["seconds"] == {"mine": [1.0] * 3}
    before = 3 + 2 * 4  # to verify it, to let it settle, to count its collectives; to warm up
    assert found["own_seconds"] == {"mine": [float(number) for number in range(before, before + 3 * 4)]}


def test_the_slowest_process_counts(part):
    found = [
        {"seconds": {"a": [1.0, 4.0]}, "own_seconds": {"a": []}, "growth": {"a": [0, 0]}, "collectives": {"a": 1}},
        {"seconds": {"a": [2.0, 3.0]}, "own_seconds": {"a": []}, "growth": {"a": [8, 8]}, "collectives": {"a": 1}},
    ]
    spent = part("_sync_measuring").merge(found)
    assert spent.seconds == {"a": [2.0, 4.0]}
    assert spent.extra_bytes == {"a": 4}
    assert spent.own_seconds == {}


def test_a_model_is_cut_into_as_many_tensors_as_asked(part):
    for num_values, num_tensors in ((10, 3), (1000, 1000), (272_474, 65)):
        sizes = [
            p.numel()
            for p in part("_scale_points").Model(num_values=num_values, num_tensors=num_tensors).build().parameters()
        ]
        assert (sum(sizes), len(sizes)) == (num_values, num_tensors)
        assert max(sizes) - min(sizes) <= 1


def test_fits_find_the_power_and_the_line_that_are_there(part):
    growth, sizes = part("_growth"), [1e6, 1e7, 1e8, 1e9]
    assert growth.fit_slope(sizes, [3e-9 * size**1.25 for size in sizes]) == pytest.approx(1.25)
    line = growth.fit_linear(sizes, [2e-3 + size / 5e8 for size in sizes])
    assert line.fixed_seconds == pytest.approx(2e-3)
    assert line.bytes_per_second == pytest.approx(5e8)
    assert line.worst_error < 1e-9
    bent = growth.fit_linear(sizes, [2e-3 + (size / 5e8) ** 1.3 for size in sizes])
    assert bent.worst_error > 0.05, "a cost that is not linear shows"


def test_the_worst_point_is_the_farthest_on_either_side_of_the_line(part):
    sizes = [1e6, 1e7, 1e8, 1e9]
    for factor in (0.5, 2.0):
        seconds = [2e-3 + size / 5e8 for size in sizes]
        seconds[1] *= factor
        line = part("_growth").fit_linear(sizes, seconds)
        expected = [line.fixed_seconds + size / line.bytes_per_second for size in sizes]
        errors = [abs(mine / own - 1) for mine, own in zip(expected, seconds, strict=True)]
        assert errors.index(max(errors)) == 1
        assert line.worst_error == pytest.approx(max(errors))


def test_a_picture_holds_its_letters_as_paths(part, tmp_path):
    pictures = part("_pictures")
    options = {"sizes": [10, 1000], "low": [0.1, 0.9], "high": [0.2, 1.1]}
    curves = [
        pictures.Curve(name="ours", seconds=[0.15, 1.0], **options),
        pictures.Curve(name="floor", seconds=[0.12, 0.95], is_floor=True, **options),
    ]
    path = tmp_path / "picture.svg"
    pictures.draw_growth(path, curves, title="t", size="rows")
    text = path.read_text()
    assert "<text" not in text
    assert "stroke-dasharray" in text


def test_steps_are_cut_into_computing_and_the_rest(part, tmp_path):
    pictures, path = part("_pictures"), tmp_path / "steps.svg"
    steps = [pictures.Step(name=f"{ms} ms", seconds=ms / 1e3, low=ms / 1e3, high=ms / 1e3) for ms in (90, 30)]
    pictures.draw_steps(path, steps, computing=0.03, title="t")
    shapes = [line for line in path.read_text().splitlines() if "#0b5fa5" in line or "#c9ced6" in line]
    assert len(shapes) == 2 * len(steps) + 2, "a bar of each colour for each, and two in the legend"


def test_torchft_that_is_not_installed_is_a_reason_and_not_a_failure(part, monkeypatch, tmp_path):
    monkeypatch.setattr(part("_environments"), "_FOLDER", tmp_path)
    settings = part("_sync_measuring").Settings(num_warmups=1, num_repeats=1)
    found = part("sync_cost").measure_torchft([(2,)], settings, num_processes=2, may_install=False)
    assert str(found).startswith("not installed: it has no environment here")
