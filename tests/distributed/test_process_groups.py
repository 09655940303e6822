"""Groups formed from groups: whatever others the program has made before, in which only some of the processes are."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from localsgd import Processes, SyncError


def sum_in(communicator):
    vector = torch.full((5,), 10.0**communicator.rank)
    communicator.all_reduce_(vector)
    return vector.tolist()


def form_beside_an_extra_group(ranks):
    extra = dist.new_group(ranks)  # registers a name in its members alone
    everyone = Processes()
    found = sum_in(everyone.twin()), sum_in(everyone.split([[0, 1], [2]]))
    del extra
    return found


@pytest.mark.parametrize("ranks", [[0, 1], [1, 2], [0]], ids=str)
def test_groups_of_the_world_are_formed_beside_a_group_of_some(ranks, processes):
    first, second, third = processes(form_beside_an_extra_group, 3, ranks)
    assert first == second == ([111.0] * 5, [11.0] * 5)
    assert third == ([111.0] * 5, [1.0] * 5)


def form_within_a_part():
    part = dist.new_group([0, 2])
    if dist.get_rank() == 1:  # is not asked, and does something else
        return None
    own = Processes(part)
    return sum_in(own.twin()), sum_in(own.split([[0], [1]]))


def test_a_part_of_the_world_forms_groups_without_the_others(processes):
    assert processes(form_within_a_part, 3) == [([11.0] * 5, [1.0] * 5), None, ([11.0] * 5, [1.0] * 5)]


def form_within_an_uneven_part():
    extra, part = dist.new_group([0, 1]), dist.new_group([1, 2])
    if dist.get_rank() == 0:
        return None
    errors = []
    for form in (Processes(part).twin, lambda: Processes(part).split([[0], [1]])):
        with pytest.raises(SyncError) as error:
            form()
        errors.append(str(error.value))
    del extra
    return errors


def test_a_part_that_torch_cannot_name_is_refused_at_once_and_not_after_a_timeout(processes):
    none, *others = processes(form_within_an_uneven_part, 3)
    assert none is None
    for errors in others:
        for error in errors:
            assert error.startswith("the processes [1, 2] are in [3, 2] groups of torch.distributed, so torch cannot")
            assert error.endswith("construct LocalSGD before groups that only some of them belong to.")


def wait_for_nobody():
    dist.barrier()
    impatient = Processes(dist.new_group([0, 1], timeout=timedelta(seconds=2)))
    group = impatient.split([[0, 1]])
    dist.barrier()
    start = time.perf_counter()
    if group.rank == 1:
        time.sleep(6)  # the other one must have given up by then
        return None
    with pytest.raises(SyncError, match="an all-reduce between 2 processes failed"):
        sum_in(group)
    return time.perf_counter() - start


def test_groups_inside_a_group_are_as_patient_as_that_group(processes):
    seconds, _ = processes(wait_for_nobody, 2)
    assert 1.5 < seconds < 5
