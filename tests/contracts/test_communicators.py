"""What every communicator must do, on one process and on several."""

import pytest
import torch
import torch.distributed as dist

from localsgd import ArgumentError, Communicator, OneProcess, Processes
from localsgd.communicators import OverlappingCommunicator, SharedMemory, require_agreement, ring_bytes

KINDS = {"one": OneProcess, "processes": Processes, "shared memory": lambda: SharedMemory(Processes())}


def exercise(kind):
    communicator = KINDS[kind]()
    rank, world_size = communicator.rank, communicator.world_size
    vector = torch.arange(7.0) + rank
    communicator.all_reduce_(vector)
    value = torch.full((2, 3), rank + 5)
    communicator.broadcast_(value, source=world_size - 1)
    require_agreement(communicator, {"anything": ["the same"]})
    return {
        "is_communicator": isinstance(communicator, Communicator),
        "identity": (rank, world_size),
        "sum": vector.tolist(),
        "broadcast": value.unique().tolist(),
        "gathered": communicator.gather({"rank": rank}),
        "wire_bytes": communicator.wire_bytes,
    }


@pytest.mark.parametrize(
    ("kind", "world_size"),
    [("one", 1), *((kind, world_size) for kind in ("processes", "shared memory") for world_size in (1, 2, 3))],
)
def test_every_communicator_sums_broadcasts_and_gathers(kind, world_size, processes):
    results = [exercise(kind)] if kind == "one" else processes(exercise, world_size, kind)
    for rank, result in enumerate(results):
        assert result["is_communicator"]
        assert result["identity"] == (rank, world_size)
        assert result["sum"] == [world_size * i + sum(range(world_size)) for i in range(7)]
        assert result["broadcast"] == [world_size - 1 + 5]
        assert result["gathered"] == [{"rank": other} for other in range(world_size)]
        assert result["wire_bytes"] == (0 if kind == "shared memory" else ring_bytes(28, world_size))


def overlapped(kind):
    """Start sums of several sizes in one group while others go through the first, everybody in an order of his own."""
    communicator = KINDS[kind]()
    twin = communicator.twin()
    rank, world_size = communicator.rank, communicator.world_size
    sums, references = [], []
    for turn in range(12):
        noise = torch.Generator().manual_seed(100 * turn + rank)
        vectors = [torch.randn(size, generator=noise) for size in (turn + 1, 1 + 5000 * (turn % 3), 7)]
        references += [vector.clone() for vector in vectors]
        waits = [twin.start_all_reduce_(vector) for vector in vectors[:2]]
        between = torch.full((3,), float(rank + turn))
        waits_here = []
        if rank % 2:
            communicator.all_reduce_(between)
            waits_here.append(twin.start_all_reduce_(vectors[2]))
        else:
            waits_here.append(twin.start_all_reduce_(vectors[2]))
            communicator.all_reduce_(between)
        assert between.tolist() == [sum(range(world_size)) + world_size * turn] * 3
        for wait in [*waits_here, *waits] if rank == 0 else [*waits, *waits_here]:
            wait()
        sums += vectors
    for reference in references:
        communicator.all_reduce_(reference)
    return sums, references, communicator.wire_bytes


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("kind", ["processes", "shared memory"])
def test_sums_that_are_started_come_out_as_others_do_whatever_happens_in_between(kind, world_size, processes):
    first, *others = processes(overlapped, world_size, kind)
    sums, references, wire_bytes = first
    for value, reference in zip(sums, references, strict=True):
        assert torch.allclose(value, reference, rtol=1e-6, atol=1e-6)
        if kind == "shared memory":
            assert torch.equal(value, reference)
    for other, _, other_bytes in others:
        assert all(map(torch.equal, other, sums))
        assert other_bytes == wire_bytes
    vectors = [value.numel() * 4 for value in sums]
    sent = sum(ring_bytes(size, world_size) for size in (*vectors, *vectors, *[12] * 12))
    assert wire_bytes == (0 if kind == "shared memory" else sent)


@pytest.mark.parametrize("kind", ["processes", "shared memory"])
def test_who_can_start_sums_is_known_by_the_protocol(kind, processes):
    assert processes(can_start_sums, 1, kind) == [True]


def can_start_sums(kind):
    return isinstance(KINDS[kind](), OverlappingCommunicator)


@pytest.mark.parametrize(
    ("payload", "members", "sent"), [(100, 1, 0), (100, 2, 100), (100, 4, 150), (7, 3, 10), (0, 5, 0)]
)
def test_a_ring_sends_twice_the_share_of_the_others(payload, members, sent):
    assert ring_bytes(payload, members) == sent


def test_processes_without_torch_distributed_say_what_to_call():
    with pytest.raises(ArgumentError, match=r"torch\.distributed is not initialised; call .*init_process_group"):
        Processes()


def subgroup_of_two():
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    communicator = Processes(groups[dist.get_rank() % 2])
    vector = torch.tensor([float(dist.get_rank())])
    communicator.all_reduce_(vector)
    source = torch.tensor([dist.get_rank()])
    communicator.broadcast_(source, source=1)
    return communicator.rank, communicator.world_size, vector.item(), source.item()


def test_a_subgroup_counts_its_own_ranks(processes):
    assert processes(subgroup_of_two, 4) == [(0, 2, 2.0, 2), (0, 2, 4.0, 3), (1, 2, 2.0, 2), (1, 2, 4.0, 3)]


def foreign_group():
    group = dist.new_group([0])
    try:
        Processes(group)
    except ArgumentError as error:
        return str(error)
    return "joined"


def test_a_process_outside_the_group_is_told_so(processes):
    joined, refused = processes(foreign_group, 2)
    assert joined == "joined"
    assert refused.startswith("this process is not a member of the group")
