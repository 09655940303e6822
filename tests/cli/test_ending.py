"""Who says the last message when several processes end with one."""

import contextlib
import io
import os
import signal
import time

import pytest
import torch.distributed as dist

from localsgd.cli.ending import end_together, excuse
from localsgd.cli.launch import Launch


def end(messages, port, echoes):
    """End like a process of a launch: what it said, and how long that took."""
    rank, said, start = dist.get_rank(), io.StringIO(), time.monotonic()
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    previous = signal.getsignal(signal.SIGTERM)
    os.environ |= agent if port else {}
    try:
        if messages[rank] is not None:
            with contextlib.redirect_stderr(said):
                launch = Launch(rank=rank, world_size=2, local_rank=rank, local_world_size=2)
                end_together(messages[rank], launch, is_echo=rank in echoes)
    finally:
        signal.signal(signal.SIGTERM, previous)
        for name in agent:
            os.environ.pop(name, None)
    return said.getvalue(), time.monotonic() - start


def ends(processes, *messages, has_agent=True, excused=(), echoes=(), is_explained=False):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in excused:
        excuse(store, rank, is_explained=is_explained)
    return processes(end, 2, messages, store.port if has_agent else None, echoes)


def test_alone_the_message_is_said(capsys):
    end_together("error: no", None)
    end_together("error: never", Launch(rank=0, world_size=1, local_rank=0, local_world_size=1))
    assert capsys.readouterr().err == "error: no\nerror: never\n"


def test_the_same_message_is_said_once_by_rank_zero(processes):
    said = [text for text, _ in ends(processes, "error: no", "error: no")]
    assert said == ["error: no\n", ""]


def test_different_messages_are_all_said_and_name_their_process(processes):
    said = [text for text, _ in ends(processes, "error: no", "error: never")]
    assert said == ["error: no\n", "process 1 of 2: error: never\n"]


def test_a_message_that_rank_zero_does_not_have_is_said_after_a_few_seconds(processes):
    (nothing, _), (said, seconds) = ends(processes, None, "error: no")
    assert (nothing, said) == ("", "process 1 of 2: error: no\n")
    assert 4 < seconds < 20


def test_nobody_waits_for_a_process_that_is_known_to_be_gone(processes):
    (_, _), (said, seconds) = ends(processes, None, "error: no", excused=[0])
    assert said == "process 1 of 2: error: no\n"
    assert seconds < 4


@pytest.mark.parametrize(
    ("echo", "expected"), [(1, ["error: no room\n", ""]), (0, ["", "process 1 of 2: error: no room\n"])]
)
def test_who_has_only_lost_the_other_is_silent_when_that_one_says_why(processes, echo, expected):
    messages = ["error: no room"] * 2
    messages[echo] = f"error: process {1 - echo} of 2 has ended"
    assert [text for text, _ in ends(processes, *messages, echoes=[echo])] == expected


@pytest.mark.parametrize("echo", [0, 1])
def test_who_has_lost_a_process_of_which_the_launcher_tells_is_silent(processes, echo):
    messages = [None, None]
    messages[echo] = "error: lost"
    found = ends(processes, *messages, excused=[1 - echo], echoes=[echo], is_explained=True)
    assert [text for text, _ in found] == ["", ""]
    assert max(seconds for _, seconds in found) < 4


def test_who_has_lost_another_speaks_if_nobody_says_why(processes):
    said = [text for text, _ in ends(processes, "error: lost", None, excused=[1], echoes=[0])]
    assert said == ["error: lost\n", ""]
    said = [text for text, _ in ends(processes, "error: lost", "error: lost, too", echoes=[0, 1])]
    assert said == ["error: lost\n", "process 1 of 2: error: lost, too\n"]
    assert [text for text, _ in ends(processes, "error: lost", "error: lost", echoes=[0, 1])] == ["error: lost\n", ""]


def test_without_the_store_of_an_agent_everybody_speaks(processes):
    said = [text for text, _ in ends(processes, "error: no", "error: no", has_agent=False)]
    assert said == ["error: no\n", "process 1 of 2: error: no\n"]
