"""What a sync hands to torch: each small operation costs as much as to send some kilobytes, and delays all processes."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from localsgd import Every, LocalSGD, SlowMo


class Operations(TorchDispatchMode):
    """Counts what is dispatched, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def operations_of_a_sync(num_layers, options):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(num_layers)), nn.BatchNorm1d(4))
    local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), Every(2), **options)
    found = []
    for _ in range(3):  # the first sync may make what later ones use again
        model(torch.randn(8, 4)).sum().backward()
        local.step()
        model(torch.randn(8, 4)).sum().backward()
        local.stepper.clock.steps += 1  # the step that a sync would follow, without the optimizer's own operations
        with Operations() as seen:
            local.stepper.sync_parameters("parameters", level=1)
        found.append(seen.counts)
    return found[-1]


def test_a_steady_sync_is_one_scan_one_collective_and_what_the_facts_need(processes):
    for counts in processes(operations_of_a_sync, 2, 3, {}):
        assert counts.pop("c10d::allreduce_") == 1
        assert counts.pop("aten::_amp_foreach_non_finite_check_and_unscale_") == 1
        # The flag of the scan, the facts into their slots; reading the facts takes no operation on a CPU.
        assert counts == {"aten::_local_scalar_dense": 1, "aten::copy_": 1}


def test_operations_of_a_sync_do_not_grow_with_the_number_of_tensors(processes):
    few, many = (processes(operations_of_a_sync, 2, number, {})[0] for number in (1, 30))
    assert few == many


@pytest.mark.parametrize("options", [{"measure_drift": True}, {"outer": SlowMo(lr=1.0, momentum=0.5)}], ids=str)
def test_drift_and_outer_steps_cost_no_collective_of_their_own(options, processes):
    assert [counts["c10d::allreduce_"] for counts in processes(operations_of_a_sync, 2, 3, options)] == [1, 1]
