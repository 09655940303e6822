"""Errands are run one after the other in a thread of their own, whatever becomes of them."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from localsgd.errors import SyncError
from localsgd.late.courier import Courier


def test_errands_keep_their_order_and_nobody_waits_who_does_not_ask():
    courier, go_on, seen = Courier(), threading.Event(), []

    def errand(number):
        go_on.wait(10)
        seen.append((number, threading.current_thread() is threading.main_thread()))

    waits = [courier.send(lambda number=number: errand(number)) for number in range(20)]
    assert seen == []
    go_on.set()
    waits[12]()
    assert [number for number, _ in seen[:13]] == list(range(13))
    waits[-1]()
    assert seen == [(number, False) for number in range(20)]
    waits[0]()  # once more is as good


def test_after_an_errand_that_failed_others_fail_at_once():
    courier, seen = Courier(), []

    def fail():
        raise SyncError("an all-reduce between 2 processes failed")

    first, second = courier.send(fail), courier.send(lambda: seen.append(1))
    with pytest.raises(
        SyncError, match=r"^an exchange before this one failed: an all-reduce between 2 processes failed$"
    ):
        second()
    for _ in range(2):
        with pytest.raises(SyncError, match=r"^an all-reduce between 2 processes failed$"):
            first()
    assert seen == []


def test_whatever_an_errand_raises_reaches_who_waits():
    def leave():
        raise KeyboardInterrupt

    wait = Courier().send(leave)
    with pytest.raises(KeyboardInterrupt):
        wait()


def test_what_an_errand_referred_to_and_the_thread_are_gone_when_nobody_needs_them():
    class Cargo:
        """Something that can be referred to weakly."""

        def carry(self):
            """Do nothing."""

    courier, cargo = Courier(), Cargo()
    gone = weakref.ref(cargo)
    wait = courier.send(cargo.carry)
    wait()
    thread = courier._hand
    del cargo
    gc.collect()
    assert gone() is None
    assert thread.is_alive()
    del courier, wait
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_left_is_done_when_nobody_holds_the_courier_any_more():
    seen = []
    wait = Courier().send(lambda: (time.sleep(0.05), seen.append(1)))
    gc.collect()
    wait()
    assert seen == [1]


FORK = "import os, sys; child = os.fork(); sys.exit() if child == 0 else os.waitpid(child, 0)"


@pytest.mark.parametrize("ending", ["del courier", FORK], ids=["forgotten", "forked"])
def test_a_process_that_ends_waits_for_errands_that_are_left(ending):
    program = f"""
import time
from localsgd.late.courier import Courier
courier = Courier()
courier.send(lambda: (time.sleep(0.2), print('first', flush=True)))
courier.send(lambda: print('second', flush=True))
{ending}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["first", "second"], "")


FORK = """
import os, threading, warnings
from localsgd.errors import StateError
from localsgd.late.courier import Courier

warnings.simplefilter("ignore")  # of forks beside threads, which is what this is about
courier, go_on = Courier(), threading.Event()
wait = courier.send(go_on.wait)
if os.fork() == 0:
    for use in (wait, lambda: courier.send(print)):
        try:
            use()
        except StateError as error:
            assert "this process was forked from one whose syncs are under way" in str(error)
        else:
            os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
go_on.set()
wait()
"""


def test_a_forked_child_is_told_that_it_has_no_such_thread():
    subprocess.run([sys.executable, "-c", FORK], timeout=30, check=True)
