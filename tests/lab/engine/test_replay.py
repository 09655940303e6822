"""Work that is captured and replayed: on a CPU it runs as it is, through the same code."""

import pytest
import torch

from localsgd import ArgumentError
from localsgd.lab.engine.replay import Branches, Measured, Replay, count_streams

CPU = torch.device("cpu")
GIB = 2**30


def test_without_a_gpu_every_call_is_a_direct_one():
    calls = []
    replay = Replay(lambda: calls.append(len(calls)), CPU)
    for _ in range(3):
        replay()
    replay.drop()
    replay()
    assert calls == [0, 1, 2, 3]


def test_without_a_gpu_branches_run_in_order():
    calls = []
    Branches(CPU).run([lambda index=index: calls.append(index) for index in range(5)])
    assert calls == [0, 1, 2, 3, 4]


def test_streams_are_as_many_as_fit_with_a_reserve_and_at_most_sixteen():
    assert count_streams(64, GIB, free_bytes=100 * GIB) == 16
    assert count_streams(4, GIB, free_bytes=100 * GIB) == 4
    assert count_streams(64, GIB, free_bytes=int(5.1 * GIB)) == 4  # 1.25 GiB each
    assert count_streams(64, 0, free_bytes=GIB) == 16


def test_a_device_that_cannot_hold_one_worker_is_refused_with_both_sizes():
    with pytest.raises(ArgumentError, match=r"needs 2.50 GiB .* and 2.00 GiB are free; use engine=plain"):
        count_streams(16, 2 * GIB, free_bytes=2 * GIB)
    with pytest.raises(ArgumentError, match=r"0.00 GiB are free"):
        count_streams(16, 2 * GIB, free_bytes=-GIB)


def small_device(free):
    """A device on which each piece passes 1 GiB through its memory and leaves 1/4 GiB there."""

    def measure(piece):
        piece()
        return Measured(passing=GIB, lasting=GIB // 4, free=free)

    return measure


def test_what_pieces_keep_and_what_is_taken_besides_must_fit_too_and_the_first_piece_runs_once():
    calls = []
    pieces = [lambda index=index: calls.append(index) for index in range(9)]
    branches = Branches(
        CPU, measure=small_device(int(4.3 * GIB))
    )  # 8/4 GiB of the others, 1 GiB besides, 1.25 GiB to work
    for _ in range(2):
        branches.run(pieces, kept_bytes=GIB // 4, resident_bytes=GIB)
    assert calls == [*range(9)] * 2
    message = (
        r"needs 1.25 GiB of memory for the step of one worker, and, after 3.00 GiB for gradients and optimizers of all,"
    )
    with pytest.raises(ArgumentError, match=f"{message} 1.20 GiB are free; use engine=plain, or a smaller batch_size"):
        Branches(CPU, measure=small_device(int(4.2 * GIB))).run(pieces, kept_bytes=GIB // 4, resident_bytes=GIB)
    assert calls[18:] == [0]  # nothing but what was measured


def test_what_a_piece_keeps_beyond_what_is_known_is_counted_by_stream_and_not_by_piece():
    pieces = [list] * 1000
    Branches(CPU, measure=small_device(2 * GIB)).run(pieces)  # 1.25 GiB a stream, and a reserve; not 250 GiB
    with pytest.raises(
        ArgumentError, match=r"needs 1.56 GiB of memory for the step of one worker, and 1.50 GiB are free"
    ):
        Branches(CPU, measure=small_device(int(1.5 * GIB))).run(pieces)


@pytest.mark.gpu
def test_on_a_gpu_the_second_call_is_captured_and_later_ones_run_no_python():
    device = torch.device("cuda")
    counter, calls = torch.zeros(1, device=device), []

    def work():
        calls.append(None)
        counter.add_(1)

    replay = Replay(work, device)
    for _ in range(5):
        replay()
    assert (counter.item(), len(calls)) == (5, 2)
    replay.drop()
    replay()
    assert (counter.item(), len(calls)) == (6, 3)


@pytest.mark.gpu
def test_on_a_gpu_branches_are_joined_before_what_follows_also_within_a_graph():
    device = torch.device("cuda")
    parts, total = torch.zeros(32, 1 << 20, device=device), torch.zeros((), device=device)
    branches = Branches(device)

    def work():
        branches.run([lambda row=row: parts[row].add_(1) for row in range(32)])
        total.copy_(parts.sum())

    replay = Replay(work, device)
    for call in range(1, 5):
        replay()
        assert total.item() == call * 32 * 2**20


@pytest.mark.gpu
def test_on_a_gpu_that_is_nearly_full_a_graph_is_refused_before_it_is_captured():
    device, kept = torch.device("cuda"), []
    ballast = torch.empty(torch.cuda.mem_get_info(device)[0] - int(1.1 * GIB), dtype=torch.uint8, device=device)
    with pytest.raises(ArgumentError, match=r"needs 1\.25 GiB of memory for the step of one worker"):
        Branches(device).run([lambda: kept.append(torch.empty(GIB, dtype=torch.uint8, device=device).sum())] * 4)
    assert len(kept) == 1
    assert ballast.numel()


@pytest.mark.gpu
def test_on_a_gpu_a_step_that_cannot_be_captured_raises_and_leaves_the_device_usable():
    device = torch.device("cuda")
    branches, values, is_wrong = Branches(device), torch.zeros(4, device=device), True

    def work():
        branches.run([lambda row=row: values[row].add_(1) for row in range(4)])
        if is_wrong:
            values.sum().item()  # waits for the device, which a capture forbids

    before = torch.cuda.current_stream(device)
    replay = Replay(work, device)
    replay()
    with pytest.raises(RuntimeError):
        replay()
    assert torch.cuda.current_stream(device) == before
    assert values.tolist() == [1.0] * 4
    is_wrong = False
    another = Replay(work, device)
    for _ in range(3):
        another()
    assert values.tolist() == [4.0] * 4


@pytest.mark.gpu
def test_on_a_gpu_one_graph_outlives_another_that_multiplied_matrices_on_the_same_branches():
    """To give a graph back frees what cuBLAS holds for its stream, which a second graph may not depend on."""
    device = torch.device("cuda")
    branches = Branches(device)
    left, results = torch.eye(512, device=device), torch.zeros(4, 512, 512, device=device)

    def work():
        branches.run([lambda row=row: results[row].add_(left @ left) for row in range(4)])

    first, second = Replay(work, device), Replay(work, device)
    for _ in range(3):
        first()
        second()
    second.drop()
    torch.cuda.empty_cache()
    for _ in range(3):
        first()
    assert results.sum().item() == 9 * 4 * 512
