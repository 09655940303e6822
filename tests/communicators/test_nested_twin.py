"""Nested blocks whose sums go on between the outermost blocks while processes do something else."""

import torch

from localsgd.communicators import Nested, NestedTwin, OverlappingCommunicator, Processes

SIZES = [1, 2, 3, 16, 1001]


def test_sums_are_those_of_the_blocks_and_may_be_under_way_side_by_side(processes):
    for rank, (sums, interleaved, is_overlapping, sent) in enumerate(processes(sum_beside, 4)):
        for size, found in zip(SIZES, sums, strict=True):
            assert found == [4 * value + 6 for value in range(size)], f"process {rank}, {size} values"
        assert interleaved == [6.0, 6.0, 6.0]
        assert is_overlapping
        assert sent > 0, "what the twin sends counts among the bytes of the groups"


def sum_beside():
    world = Processes()
    inner = world.split([[0, 1], [2, 3]])
    outer = world.split([[0, 2], [1, 3]])
    nested = Nested([inner, outer])
    twin = NestedTwin(nested.levels)
    before = nested.wire_bytes
    vectors = [torch.arange(size, dtype=torch.float64) + world.rank for size in SIZES]
    waits = [twin.start_all_reduce_(vector) for vector in vectors]
    between = torch.full((3,), float(world.rank))
    nested.all_reduce_(between)  # another exchange of the same processes meanwhile
    sent_between = nested.wire_bytes - before
    for wait in waits:
        wait()
    sent = nested.wire_bytes - before - sent_between
    return [v.tolist() for v in vectors], between.tolist(), isinstance(twin, OverlappingCommunicator), sent


def test_what_another_thread_sends_may_be_counted_apart(processes):
    for counted, apart, before, after in processes(sum_apart, 4):
        assert apart == counted > 0
        assert after == before


def sum_apart():
    world = Processes()
    nested = Nested([world.split([[0, 1], [2, 3]]), world.split([[0, 2], [1, 3]])])
    vector, before = torch.ones(1000), nested.wire_bytes
    nested.all_reduce_(vector)
    counted, before = nested.wire_bytes - before, nested.wire_bytes
    twin = NestedTwin(nested.levels, counts=False)
    twin.nested.all_reduce_(vector)
    return counted, twin.wire_bytes, before, nested.wire_bytes


def test_it_gathers_and_broadcasts_like_the_blocks(processes):
    for found in processes(talk, 4):
        assert found == ([0, 1, 2, 3], 3.0, 6.0, 4)


def talk():
    world = Processes()
    twin = NestedTwin([world.split([[0, 1], [2, 3]]), world.split([[0, 2], [1, 3]])]).twin()
    told, summed = torch.full((1,), float(world.rank)), torch.full((1,), float(world.rank))
    twin.broadcast_(told, source=3)
    twin.all_reduce_(summed)
    return twin.gather(world.rank), told.item(), summed.item(), twin.world_size
