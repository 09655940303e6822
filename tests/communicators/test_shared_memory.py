"""What is particular to sums in shared memory; what every communicator does is in tests/contracts."""

import gc
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from localsgd import (
    ArgumentError,
    Every,
    Hierarchical,
    LocalSGD,
    Never,
    Processes,
    StateError,
    SyncError,
    Topology,
)
from localsgd.communicators import SharedMemory, communicators_by_level
from tests.equivalence.plain import OPTIMIZERS, batches, perceptron
from tests.equivalence.running import train_rows

SIZES = (1, 2, 5, 7, 8, 9, 1000)


def sums(dtype):
    """Sum vectors that do not fill, just fill and overflow buckets of 32 bytes."""
    communicator = SharedMemory(Processes(), bucket_bytes=32)
    found = []
    for size in SIZES:
        vector = torch.randn(size, generator=torch.Generator().manual_seed(size + 100 * communicator.rank)).to(dtype)
        reference = vector.to(torch.float64)
        dist.all_reduce(reference)
        communicator.all_reduce_(vector)
        found.append((vector, reference))
    return found


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 0.03)])
def test_vectors_of_any_size_and_type_are_summed_to_the_same_bits_everywhere(processes, world_size, dtype, error):
    everywhere = processes(sums, world_size, dtype)
    for of_one_size in zip(*everywhere, strict=True):
        first, reference = of_one_size[0]
        assert all(torch.equal(vector, first) for vector, _ in of_one_size)
        assert torch.allclose(first.double(), reference, rtol=error, atol=error)


def closed():
    communicator = SharedMemory(Processes())
    communicator.close()
    try:
        communicator.all_reduce_(torch.ones(2))
    except StateError as error:
        return str(error)
    return "summed"


def test_after_closing_nothing_is_summed_any_more(processes):
    assert processes(closed, 2) == ["this SharedMemory was closed; make another one on every process."] * 2


def many_sums():
    """Sum without a pause, now this process being late and now that one."""
    communicator = SharedMemory(Processes(), bucket_bytes=64)
    wrong = 0
    for turn in range(200):
        if turn % 7 == communicator.rank:
            time.sleep(0.001)
        vector = torch.full((40,), float(turn + communicator.rank))
        communicator.all_reduce_(vector)
        wrong += int((vector != communicator.world_size * turn + sum(range(communicator.world_size))).sum())
    return wrong


@pytest.mark.parametrize("world_size", [2, 3])
def test_nobody_overwrites_what_others_still_read(processes, world_size):
    assert processes(many_sums, world_size) == [0] * world_size


def deserted(how):
    communicator = SharedMemory(Processes(), timeout_seconds=30 if how == "gone" else 2)
    dist.barrier()
    if communicator.rank == 1:
        if how == "gone":
            communicator.close()
        dist.barrier()
        return None
    start = time.monotonic()
    try:
        communicator.all_reduce_(torch.ones(3))
    except SyncError as error:
        return str(error), time.monotonic() - start
    finally:
        dist.barrier()
    return "summed", 0.0


@pytest.mark.parametrize(("how", "complaint"), [("gone", "has ended"), ("late", "did not come within 2 s")])
def test_a_process_that_is_not_there_is_named(processes, how, complaint):
    first, _, third = processes(deserted, 3, how)
    for message, seconds in (first, third):
        assert message == (f"process 1 of 3 {complaint}; look at its log, and start again from the last checkpoint.")
        assert seconds < 10


def memory_of_this_process():
    communicator = SharedMemory(Processes())
    maps = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    return communicator.rank, [path for path in maps if "localsgd" in path and path.startswith(("/dev", "/memfd"))]


def test_the_memory_has_no_name_that_a_killed_process_could_leave_behind(processes):
    for _, maps in processes(memory_of_this_process, 2):
        assert maps == ["/memfd:localsgd (deleted)"] * 2


def too_little_memory():
    communicator = Processes()
    if communicator.rank == 1:
        os_posix_fallocate, os.posix_fallocate = os.posix_fallocate, _no_room
    try:
        SharedMemory(communicator)
    except ArgumentError as error:
        return str(error)
    finally:
        if communicator.rank == 1:
            os.posix_fallocate = os_posix_fallocate
    return "shared"


def _no_room(*_):
    raise OSError(28, "No space left on device")


def test_a_process_without_room_is_named_on_all(processes):
    message = "process 1 of 2 cannot share memory: [Errno 28] No space left on device"
    assert processes(too_little_memory, 2) == [message] * 2


def average():
    torch.manual_seed(dist.get_rank())
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    local = LocalSGD(model, optimizer, Never(), communicator=SharedMemory(Processes()))
    with torch.no_grad():
        model.weight.fill_(1.0 + dist.get_rank())
    report = local.sync()
    return model.weight.unique().tolist(), report.wire_bytes, report.bytes_sent


def test_local_sgd_averages_and_counts_no_byte_on_the_wire(processes):
    first, second = processes(average, 2)
    assert first == second
    weight, wire_bytes, bytes_sent = first
    assert (weight, wire_bytes) == ([1.5], 0)
    assert bytes_sent > 0  # what it would be if every worker were alone


def levels(sizes, is_short_of_memory):
    communicator = SharedMemory(Processes())
    os_posix_fallocate = os.posix_fallocate
    if is_short_of_memory and communicator.rank == 1:
        os.posix_fallocate = _no_room
    try:
        inner, outer = communicators_by_level(communicator, sizes)
    finally:
        os.posix_fallocate = os_posix_fallocate
    found = []
    for level in (inner, outer):
        vector = torch.arange(5.0) + communicator.rank
        level.all_reduce_(vector)
        found.append((type(level).__name__, level.rank, vector[0].item(), level.wire_bytes > 0))
    return found


@pytest.mark.parametrize("is_short_of_memory", [False, True])
def test_innermost_blocks_share_memory_and_larger_ones_exchange_as_they_did(processes, is_short_of_memory):
    everywhere = processes(levels, 4, (2, 2), is_short_of_memory)
    for rank, (inner, outer) in enumerate(everywhere):
        in_sockets = is_short_of_memory and rank < 2
        kind = "Processes" if in_sockets else "SharedMemory"
        assert inner == (kind, rank % 2, 1.0 if rank < 2 else 5.0, in_sockets)
        assert outer == ("Nested", rank, 6.0, True)


def test_one_level_of_processes_is_the_shared_memory_itself(processes):
    assert processes(levels, 2, (2, 1), False) == [[("SharedMemory", rank, 1.0, False)] * 2 for rank in range(2)]


def train(schedule, blocks):
    data = batches(9, 4, dtype=torch.float64)
    options = {"topology": Topology(blocks)}
    if dist.is_initialized():
        options["communicator"] = SharedMemory(Processes())
    models, _, log = train_rows(perceptron(torch.float64), OPTIMIZERS[0], data, schedule, **options)
    return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models], log


@pytest.mark.parametrize(
    ("schedule", "blocks"), [(Every(1), (4,)), (Every(3), (4,)), (Hierarchical([2, 2]), (2, 2))], ids=str
)
def test_workers_give_the_same_run_and_the_same_syncs_in_one_process_and_in_several(processes, schedule, blocks):
    by_rows, log = train(schedule, blocks)
    for world_size in (2, 4):
        results = processes(train, world_size, schedule, blocks)
        assert [own for _, own in results] == [log] * world_size
        for ours, theirs in zip([state for states, _ in results for state in states], by_rows, strict=True):
            for name, tensor in theirs.items():
                torch.testing.assert_close(ours[name], tensor, rtol=1e-9, atol=1e-11, msg=name)


def memory_in_use():
    """Start sums, one at a time and several at once, again and again; then look how much memory is shared."""
    communicator = SharedMemory(Processes(), bucket_bytes=4096)
    sizes = []
    for turn in range(60):
        vectors = [torch.ones(10_000) for _ in range(1 if turn < 30 else 3)]
        waits = [communicator.start_all_reduce_(vector) for vector in vectors]
        if turn % 5 == communicator.rank:
            time.sleep(0.005)
        for wait in waits:
            wait()
        assert all(vector.unique().tolist() == [communicator.world_size] for vector in vectors)
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        ours = [line.split()[0].split("-") for line in maps if "/memfd:localsgd" in line]
        sizes.append(sum(int(end, 16) - int(begin, 16) for begin, end in ours) / communicator.world_size)
    return sizes


@pytest.mark.parametrize("world_size", [2, 3])
def test_memory_of_started_sums_is_used_again(processes, world_size):
    places = 40_960  # 10,000 values in whole pages
    for sizes in processes(memory_in_use, world_size):
        assert sizes[29] <= 8192 + 2 * places
        assert sizes[59] <= 8192 + 6 * places


def deserted_after_starting(how):
    communicator = SharedMemory(Processes(), timeout_seconds=30 if how == "gone" else 2)
    twin = communicator.twin()
    vectors = [torch.ones(3) for _ in range(3)]
    found = []
    waits = [twin.start_all_reduce_(vectors[0])]
    dist.barrier()
    if communicator.rank == 1 and how == "gone":
        communicator.close()
    dist.barrier()
    if communicator.rank == 1:
        dist.barrier()
        return found
    begin = time.monotonic()
    waits[0]()
    for vector in vectors[1:]:
        try:
            waits.append(twin.start_all_reduce_(vector))
        except SyncError as error:
            found.append(str(error))
    for wait in waits[1:] * 2:
        try:
            wait()
        except SyncError as error:
            found.append(str(error))
    seconds = time.monotonic() - begin
    dist.barrier()
    return [*found, vectors[0].tolist(), vectors[1].tolist(), seconds < 10]


@pytest.mark.parametrize(
    ("how", "complaint", "number"), [("gone", "has ended", 2), ("late", "did not come within 2 s", 4)]
)
def test_a_process_that_starts_a_sum_no_more_is_named_and_what_it_had_started_counts(processes, how, complaint, number):
    first, _, third = processes(deserted_after_starting, 3, how)
    message = f"process 1 of 3 {complaint}; look at its log, and start again from the last checkpoint."
    for found in (first, third):
        assert found == [*[message] * number, [3.0] * 3, [1.0] * 3, True]


def closed_in_between():
    communicator = SharedMemory(Processes())
    twin = communicator.twin()
    wait = twin.start_all_reduce_(torch.ones(2))
    dist.barrier()
    communicator.close()
    found = []
    for call in (wait, lambda: twin.start_all_reduce_(torch.ones(2)), lambda: twin.all_reduce_(torch.ones(2))):
        try:
            call()
        except StateError as error:
            found.append(str(error))
    return found


def test_closing_closes_the_twin_with_the_sums_that_were_started(processes):
    message = "this SharedMemory was closed; make another one on every process."
    assert processes(closed_in_between, 2) == [[message] * 3] * 2


def no_room_to_start():
    communicator = SharedMemory(Processes(), timeout_seconds=30)
    dist.barrier()
    os_posix_fallocate, os.posix_fallocate = os.posix_fallocate, _no_room
    try:
        communicator.start_all_reduce_(torch.ones(2))
    except SyncError as error:
        return str(error)
    finally:
        os.posix_fallocate = os_posix_fallocate
    return "started"


def test_without_room_for_a_vector_no_sum_is_started(processes):
    for rank, message in enumerate(processes(no_room_to_start, 2)):
        assert message.startswith(
            f"process {rank} of 2 cannot share 4096 more bytes ([Errno 28] No space left on device)"
        )


def what_is_left():
    def count():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), "/memfd:localsgd" in Path("/proc/self/maps").read_text(
            encoding="utf-8"
        )

    before = count()
    for _ in range(3):
        communicator = SharedMemory(Processes())
        wait = communicator.start_all_reduce_(torch.ones(5000))
        wait()
        communicator.all_reduce_(torch.ones(3))
        dist.barrier()
        communicator.close()
        del communicator, wait
    return before, count()


def test_nothing_is_left_open_after_closing(processes):
    for before, after in processes(what_is_left, 2):
        assert after == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bucket_bytes": 8}, "bucket_bytes=8 must be >= 16"),
        ({"timeout_seconds": 0}, "timeout_seconds=0 must be a finite number > 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(processes, value, message):
    assert processes(refuse, 1, value)[0].startswith(message)


def refuse(value):
    try:
        SharedMemory(Processes(), **value)
    except ArgumentError as error:
        return str(error)
    return "shared"
