"""Contestants in processes of their own: they train what they are told, round by round, and their failures are told."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def part():
    """Imports a shared part by its name, as the scripts do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture
def setting(part):
    return part("_fleets").Setting(model="digits-mlp", workers=2, batch_size=8, period=3)


def children():
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_naive_loop_elsewhere_trains_as_one_here_and_ends_with_the_measurement(part, setting):
    peers, here = part("_peers"), part("_fleets").NaiveLoop(setting)
    before = children()
    with peers.started(peers.NAIVE, [setting.write()]) as (path,):
        remote = peers.Remote(path)
        for _ in range(2):
            remote()
            here()
            assert remote.tell() == pytest.approx(here.total(), rel=1e-6)  # it may have more threads
        assert remote.failure is None
        assert children() > before
        remote.close()
    assert children() == before


def test_processes_of_one_peer_run_their_rounds_at_the_same_time(part, setting):
    peers = part("_peers")
    with peers.started(peers.NAIVE, [setting.write()] * 2) as paths:
        remotes = [peers.Remote(path) for path in paths]
        for remote in remotes:
            remote.begin()
        for remote in remotes:
            remote.end()
        assert remotes[0].tell() == remotes[1].tell() > 0
        for remote in remotes:
            remote.close()


def test_a_peer_that_does_not_start_says_its_last_word(part):
    peers = part("_peers")
    with (
        pytest.raises(part("_environments").PeerError, match=r"not run: json\.decoder\.JSONDecodeError: "),
        peers.started(peers.NAIVE, ["not a setting"]),
    ):
        pass


def test_a_peer_that_dies_is_left_alone_from_then_on(part, setting):
    peers = part("_peers")
    before = children()
    with peers.started(peers.NAIVE, [setting.write()]) as (path,):
        remote = peers.Remote(path)
        remote()
        (number,) = children() - before
        os.kill(number, signal.SIGKILL)
        remote()
        assert remote.failure
        start = time.monotonic()
        remote()
        assert time.monotonic() - start < 1
        assert remote.tell() != remote.tell()  # not a number
        remote.close()


def test_a_peer_without_an_environment_is_not_installed(part, setting, tmp_path):
    peers = part("_peers")
    nobody = peers.Peer(title="nobody", module="_peer_naive", environment="exogym", note="")
    if (FOLDER.parent / ".peers" / "exogym" / "READY").exists():
        pytest.skip("EXO Gym is installed here")
    with (
        pytest.raises(part("_environments").PeerError, match="not installed: it has no environment here yet"),
        peers.started(nobody, [setting.write()], may_install=False),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flwr", "exogym"])
def test_a_package_and_a_naive_loop_train_the_same(part, setting, name):
    peers = part("_peers")
    try:
        part("_environments").python_of(name, may_install=False)
    except part("_environments").PeerError as error:
        pytest.skip(f"{name}: {error}")
    here = part("_fleets").NaiveLoop(setting)
    with peers.started(peers.PEERS[name], [setting.write()]) as (path,):
        remote = peers.Remote(path)
        remote()
        here()  # one round: clients of Flower begin the second one with new momentum
        assert remote.failure is None
        if name == "flwr":  # EXO Gym has been training before it is asked, and its first round has a step more
            assert remote.tell() == pytest.approx(here.total(), rel=1e-7)
        remote()
        assert remote.failure is None
        remote.close()
