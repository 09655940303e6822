"""Decoding in other processes: the same bits, in order, a bounded number ahead, and nobody left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from localsgd.errors import ArgumentError, DataError
from localsgd.lab.data.image_folder_ahead import DecodingAhead
from localsgd.lab.data.image_folder_decoding import Decoder, DecodingRequest
from tests.small_images import make_image_folder, small_image_folder

DECODER = Decoder(image_size=16, short_side=20)
NUM_AHEAD = 3

SCRIPT = """
import itertools, multiprocessing, signal, sys
from localsgd.lab.data.image_folder_ahead import DecodingAhead
from localsgd.lab.data.image_folder_decoding import Decoder, DecodingRequest

def main(path, ending):
    requests = [DecodingRequest(paths=(path,) * 8, seed=seed) for seed in range(100_000)]
    heard = []
    if ending == "goes on":
        signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    ahead = DecodingAhead(Decoder(image_size=512, short_side=520), num_processes=1)  # megabytes to send while it ends
    ahead.announce(requests)
    ahead.take(requests[0])
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    if ending == "raises":
        raise RuntimeError("on purpose")
    for request in requests[1:]:
        ahead.take(request)
        if heard:
            break
    for request in requests[request.seed + 1 :][:20]:
        ahead.take(request)
    print("went on", flush=True)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    files = small_image_folder(make_image_folder(tmp_path_factory.mktemp("images"))).train
    return list(files.paths(torch.arange(len(files))))


@pytest.fixture(scope="module")
def ahead():
    """Two processes for all tests: it takes seconds to start them."""
    with DecodingAhead(DECODER, num_processes=2, num_ahead=NUM_AHEAD) as shared:
        yield shared


def requests_for(paths, num, *, seed=0, size=3):
    return [
        DecodingRequest(
            paths=tuple(paths[(number * size + place) % len(paths)] for place in range(size)), seed=seed + number
        )
        for number in range(num)
    ]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def all_end(pids, *, seconds=20):
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def test_announced_batches_come_in_order_and_are_those_decoded_here(ahead, paths):
    requests = requests_for(paths, 20)
    ahead.announce(requests)
    for request in requests:
        assert torch.equal(ahead.take(request), DECODER.decode(request))


def test_only_so_many_batches_are_looked_at_ahead(ahead, paths):
    requests = requests_for(paths, 1000)
    seen = []
    ahead.announce(seen.append(request) or request for request in requests)
    for number, request in enumerate(requests[:30]):
        assert len(seen) == 2 * NUM_AHEAD + number
        assert torch.equal(ahead.take(request), DECODER.decode(request))


def test_what_was_not_announced_is_decoded_all_the_same_and_disturbs_nothing(ahead, paths):
    requests, others = requests_for(paths, 8), requests_for(paths, 8, seed=500)
    ahead.announce(requests)
    for request, other in zip(requests, others, strict=True):
        assert torch.equal(ahead.take(other), DECODER.decode(other))
        assert torch.equal(ahead.take(request), DECODER.decode(request))
    assert torch.equal(ahead.take(requests[0]), DECODER.decode(requests[0]))


def test_a_new_announcement_replaces_one_that_was_not_used_up(ahead, paths):
    ahead.announce(requests_for(paths, 50, seed=100))
    children = {process.pid for process in multiprocessing.active_children()}
    requests = requests_for(paths, 5, seed=200)
    ahead.announce(requests)
    for request in requests:
        assert torch.equal(ahead.take(request), DECODER.decode(request))
    assert {process.pid for process in multiprocessing.active_children()} == children


def test_a_request_is_decoded_ahead_even_if_equal_ones_are_announced_twice(ahead, paths):
    (request,) = requests_for(paths, 1)
    ahead.announce([request] * 4)
    for _ in range(4):
        assert torch.equal(ahead.take(request), DECODER.decode(request))


def test_torch_keeps_its_own_random_numbers(ahead, paths):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    ahead.announce(requests_for(paths, 3))
    ahead.take(requests_for(paths, 1)[0])
    assert torch.equal(torch.rand(3), expected)


def test_without_processes_nothing_is_started_and_nothing_decoded_beforehand(paths):
    announced = iter(requests_for(paths, 4))
    before = {process.pid for process in multiprocessing.active_children()}
    with DecodingAhead(DECODER, num_processes=0) as here:
        here.announce(announced)
        for request in requests_for(paths, 4):
            assert torch.equal(here.take(request), DECODER.decode(request))
    assert {process.pid for process in multiprocessing.active_children()} == before
    assert len(list(announced)) == 4


@pytest.mark.slow
def test_a_file_that_cannot_be_decoded_is_named_and_ends_the_processes(tmp_path, paths):
    damaged = tmp_path / "damaged.JPEG"
    damaged.write_bytes(Path(paths[0]).read_bytes()[:300])
    requests = requests_for(paths, 6)
    requests[3] = DecodingRequest(paths=(paths[0], str(damaged)), seed=0)
    before = {process.pid for process in multiprocessing.active_children()}
    ahead = DecodingAhead(DECODER, num_processes=1)
    ahead.announce(requests)
    for request in requests[:3]:
        ahead.take(request)
    with pytest.raises(
        DataError, match=r"^\S*damaged\.JPEG cannot be decoded .*; put a sound copy in its place"
    ) as caught:
        ahead.take(requests[3])
    assert {process.pid for process in multiprocessing.active_children()} == before, caught
    assert torch.equal(ahead.take(requests[4]), DECODER.decode(requests[4]))


@pytest.mark.slow
def test_a_process_that_dies_is_told_of_with_what_may_help(paths):
    requests = requests_for(paths, 1000, size=30)
    before = set(multiprocessing.active_children())
    with DecodingAhead(DECODER, num_processes=1, num_ahead=1) as ahead:
        ahead.announce(requests)
        ahead.take(requests[0])
        (child,) = set(multiprocessing.active_children()) - before
        with pytest.raises(DataError, match=r"ended unasked \(.*\); if memory ran out"):
            for number, request in enumerate(requests[1:]):
                if number == 2:
                    os.kill(child.pid, signal.SIGKILL)
                ahead.take(request)
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_processes": -1}, "num_processes=-1 must be >= 0"),
        ({"num_processes": 1, "num_ahead": 0}, "num_ahead=0 must be >= 1"),
    ],
)
def test_impossible_numbers_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        DecodingAhead(DECODER, **arguments)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", ["raises", "is interrupted", "goes on", "is killed"])
def test_no_process_outlives_the_one_it_decodes_for(tmp_path, paths, ending):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script, paths[0], ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            pids = [int(word) for word in process.stdout.readline().split()]
            assert pids
            if ending in ("is interrupted", "goes on"):
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
            elif ending == "is killed":
                process.kill()
            out, err = process.communicate(timeout=40)
        finally:
            process.kill()
        assert all_end(pids), "processes were left behind"
    expected = {"raises": 1, "is interrupted": -signal.SIGINT, "goes on": 0, "is killed": -signal.SIGKILL}
    assert process.returncode == expected[ending], err
    assert ("went on" in out) == (ending == "goes on")
    if ending == "is interrupted":
        assert err.count("Traceback") == 1, "those that decode have nothing to say"
    if ending == "goes on":
        assert err == ""
