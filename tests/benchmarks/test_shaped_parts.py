"""What shaped_network trusts: which networks and contestants there are, that they train, and what is said of numbers."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NUM_STEPS = 9
"""A sync with a period of 8 that started has landed."""
SECONDS = {
    "compute only": 0.035,
    "compute only, raw all_reduce beside 7 of 8 steps": 0.0396,
    "localsgd, H = 8": 0.047,
    "localsgd, H = 8, overlap of 7 steps": 0.041,
    "DDP(forward_sync_buffers=False)": 0.127,
}
"""Of a step, as made up."""


@pytest.fixture(scope="module")
def part():
    """Imports a shared part by its name, as the scripts do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def lone_network(part):
    """One process on one host: whoever averages is its own mean."""
    return part("_wire_network").Network(megabits=100, workers=1, hosts=1)


@pytest.fixture
def trainees(part, alone, lone_network):
    """One of each contestant that there is in a world of one process."""
    script, contestants = part("shaped_network"), part("_wire_contestants")
    scale = script.SMOKE
    config = script.arithmetic(scale)
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.rand(4, *scale.image_shape, generator=generator), torch.tensor([0, 3, 5, 9])) for _ in range(3)]
    forward = script.Forward(config, torch.device("cpu"))
    task = contestants.Task(config=config, forward=forward, batches=batches)
    inputs = script.ImageInputs(num_classes=10, image_shape=scale.image_shape)
    return {
        name: way.make(forward.place(script.build(config.model.name, seed=0, inputs=inputs)), task)
        for name, way in contestants.training_ways(lone_network).items()
    }


def test_who_averages_with_nobody_trains_as_who_only_computes(trainees):
    plain, start = trainees["compute only"], trainees["compute only"].parameters()
    plain.train(NUM_STEPS)
    way = (plain.parameters() - start).norm()
    for name, trainee in trainees.items():
        if trainee is not plain:
            trainee.train(NUM_STEPS)
            trainee.finish()
        # Compressors round what a lone worker has as well; Sign keeps but the mean size of the changes in a block.
        tolerance = 1.0 if any(word in name for word in ("Float16", "Int", "Sign")) else 1e-4
        assert (trainee.parameters() - plain.parameters()).norm() < tolerance * way, name


def test_a_contestant_that_goes_elsewhere_is_not_timed(part, trainees):
    verify, reference, start = part("shaped_network")._verify, trainees["DDP"], trainees["DDP"].parameters()
    reference.train(3)
    own = trainees["localsgd, H = 1"]
    own.train(3)
    verify("localsgd, H = 1", own, reference, start=start)
    idle = trainees["localsgd, H = 8"]
    idle.num_steps = 3
    with pytest.raises(RuntimeError, match=r"^localsgd, H = 8 went elsewhere than DDP.*: 1\.000 of the way"):
        verify("localsgd, H = 8", idle, reference, start=start)
    with torch.no_grad():
        next(idle.model.parameters()).fill_(torch.nan)
    with pytest.raises(RuntimeError, match="does not train: there are parameters that are not finite"):
        verify("localsgd, H = 8", idle, reference, start=start)


def test_contestants_that_this_localsgd_refuses_are_left_out(part, monkeypatch):
    contestants, network = part("_wire_contestants"), part("_wire_network").Network(megabits=100, workers=2)
    combined = {"localsgd, H = 8, overlap of 7 steps, Int8", "localsgd, H = 8, overlap of 7 steps, ErrorFeedback(Int4)"}
    assert {*contestants.training_ways(network)} & combined == combined - {*contestants.refused_ways()}
    contestants.refused_ways.cache_clear()
    monkeypatch.setattr(contestants, "OVERLAP_STEPS", 8)  # which no round of 8 steps can have
    try:
        assert {*contestants.refused_ways()} == combined
        assert all("overlap_steps=8" in reason for reason in contestants.refused_ways().values())
        assert not {*contestants.training_ways(network)} & combined
    finally:
        contestants.refused_ways.cache_clear()


def test_what_was_said_selects_networks_and_nothing_said_takes_the_usual_ones(part):
    networks = part("_wire_network")
    usual = networks.choose_networks(None, None, None, default=networks.DEFAULT_NETWORKS)
    assert [network.title for network in usual] == [
        "100 Mbit/s, 2 hosts x 2",
        "100 Mbit/s, 2 hosts x 1",
        "100 Mbit/s, 2 hosts x 1, frames of 9,000 bytes",
        "1000 Mbit/s, 2 hosts x 2",
        "1000 Mbit/s, 2 hosts x 1",
    ]
    chosen = networks.choose_networks([50], None, [1500, 9000], default=networks.SMOKE_NETWORKS)
    assert [(one.megabits, one.workers, one.frame_bytes) for one in chosen] == [
        (50, 2, 1500),
        (50, 2, 9000),
        (50, 1, 1500),
        (50, 1, 9000),
    ]
    for several in (usual, chosen):
        assert sum(one.has_control for one in several) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "1500", "100"], "frame_bytes=100 must be in 576..32000"),
        (["--frames", "large"], "large must be a whole number of bytes"),
        (["--rates", "0"], "0 must be a number of Mbit/s > 0."),
        (["--rates", "nan"], "nan must be a number of Mbit/s > 0."),
        (["--workers", "0"], "0 must be a whole number >= 1."),
    ],
)
def test_a_network_that_cannot_be_is_refused(part, capsys, arguments, message):
    with pytest.raises(SystemExit):
        part("shaped_network")._parser().parse_args(arguments)
    assert message in capsys.readouterr().err


def present(part, network, *, seconds, capsys):
    """Show made-up numbers, the same in both processes and each of nine repetitions."""
    tables, report = part("_wire_tables"), part("_report").Report("What?", seed=0, smoke=True)
    names = part("_wire_contestants").training_ways(network)
    own = {
        "seconds": {name: [seconds.get(name, 0.1)] * 9 for name in names},
        "activity": {name: [[2700.0, 1700.0] if "beside" in name else [130.0, 190.0]] * 9 for name in names},
        "counted": {name: [1000.0, None] for name in names},
        "raw": [0.0926] * 18,
        "sums": {},
    }
    hiding = tables.present_training(report, [own, own], network=network, num_samples=64)
    return hiding, capsys.readouterr().out


def test_what_can_be_hidden_comes_from_what_was_measured(part, capsys):
    network = part("_wire_network").Network(megabits=100, workers=1)
    small = "localsgd, H = 8, overlap of 7 steps, Int8"
    (hiding,), out = present(part, network, seconds=SECONDS | {small: 0.0362}, capsys=capsys)
    (row,) = [line for line in out.splitlines() if line.startswith(f"| {small} ")]
    assert " 90% |" in row
    assert (hiding.possible, hiding.hidden) == (pytest.approx(7.4 / 12), pytest.approx(6 / 12))
    assert "is 50% (goal: at least 60%)" in out
    assert "hides 62%: but for noise, nothing that sends as many bytes can hide more here." in out
    assert "hides 50%, which is 81% of that." in out
    assert (
        "loses 4.60 ms, while the machine takes 1,700 interrupts and switches between threads 2,700 times a step" in out
    )
    assert "against 190 and 130 when nothing is sent" in out


def test_what_faster_steps_would_give_is_computed_from_what_was_measured(part, capsys):
    network = part("_wire_network").Network(megabits=100, workers=1)
    _, out = present(part, network, seconds=SECONDS, capsys=capsys)
    # (16.8 + 127 - 35) / (16.8 + 92.6 / 8), and so on
    assert (
        "would give 3.8x with localsgd, H = 8, 5.5x with localsgd, H = 32, 4.8x with localsgd, H = 8, BFloat16" in out
    )
    assert out.count("goal missed: throughput of") == 3


def test_other_frames_are_judged_by_what_they_are_there_for(part, capsys):
    network = part("_wire_network").Network(megabits=100, workers=1, frame_bytes=9000)
    assert {*part("_wire_contestants").training_ways(network)} == {*SECONDS}
    (hiding,), out = present(part, network, seconds=SECONDS, capsys=capsys)
    assert "throughput of" not in out
    part("_wire_tables").present_hiding(part("_report").Report("What?", seed=0, smoke=True), [hiding, hiding])
    table = capsys.readouterr().out
    assert table.count("| 100 Mbit/s, 2 hosts x 1, frames of 9,000 bytes |") == 2
    assert " +2,570 |" in table
    assert " +1,510 |" in table


def test_where_steps_hardly_wait_nothing_is_said_of_hiding(part, capsys):
    network = part("_wire_network").Network(megabits=1000, workers=1)
    hiding, out = present(part, network, seconds=SECONDS | {"localsgd, H = 8": 0.036}, capsys=capsys)
    assert hiding == []
    assert "waits too little" in out
