"""What goes wrong with sharded workers (FSDP2), and that every process of every worker hears of it."""

import re

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.optim import SGD

from localsgd import Every, EverySeconds, Hierarchical, LocalSGD, Processes, Topology
from localsgd.compression import BFloat16
from localsgd.outer import Nesterov
from tests.equivalence.plain import OPTIMIZERS, batches
from tests.sharded import PROCESSES, across, halves, odd, parts, shard, start, train, whole


def caught(function, *args, **options):
    """The name and the message of what a call raises."""
    try:
        function(*args, **options)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return type(error).__name__, str(error)
    return "nothing", ""


def build(model, communicator, schedule=None, **options):
    optimizer = SGD(model.parameters(), lr=0.1)
    return LocalSGD(model, optimizer, schedule or Every(3), communicator=communicator, **options)


def shard_over_both_dimensions():
    mesh, model = halves(), odd()
    fully_shard(model, mesh=mesh)
    return caught(build, model, across(mesh))


def average_over_the_world():
    mesh = halves()
    return caught(build, shard(odd(), mesh), None)


def average_inside_a_worker():
    mesh = halves()
    return caught(build, shard(odd(), mesh), Processes(mesh.get_group("shard")))


def average_different_parts():
    mesh, rank = halves(), dist.get_rank()
    crossed = [dist.new_group([0, 3]), dist.new_group([1, 2])]
    return caught(build, shard(odd(), mesh), Processes(crossed[rank in {1, 2}]))


def shard_one_worker_only():
    mesh, model = halves(), odd()
    if mesh.get_local_rank("replicate"):
        shard(model, mesh)
    return caught(build, model, across(mesh))


def shard_an_inner_layer_only():
    mesh, model = halves(), odd()
    fully_shard(model[0], mesh=mesh["shard"])
    model[0].bias.requires_grad_(True)
    return caught(build, model, across(mesh))


def shard_over_two_meshes():
    mesh, model = halves(), odd()
    other = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "replicate"))
    fully_shard(model[6], mesh=other["shard"])
    fully_shard(model, mesh=mesh["shard"])
    return caught(build, model, across(mesh))


def shard_workers_along_different_dimensions():
    mesh = halves()
    dim = mesh.get_local_rank("replicate")
    model = nn.Linear(4, 4, bias=False)
    fully_shard(model, mesh=mesh["shard"], shard_placement_fn=lambda parameter: Shard(dim))
    return caught(build, model, across(mesh))


def shard_the_old_way():
    return caught(build, FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu")), None)


def two_rows():
    mesh = halves()
    models = [shard(odd(), mesh), shard(odd(), mesh)]
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    return caught(LocalSGD, models, optimizers, Every(3), communicator=across(mesh))


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (
            shard_over_both_dimensions,
            "ArgumentError",
            r"copies along \['replicate'\] take part in every step's gradient",
        ),
        (
            shard_over_both_dimensions,
            "ArgumentError",
            r"fully_shard\(model, mesh=mesh\[\"shard\"\]\), and pass communicator",
        ),
        (
            average_over_the_world,
            "ArgumentError",
            r"process 0 of 4 \(rank 0\) holds a part of the same worker as ranks \[1\]",
        ),
        (average_over_the_world, "ArgumentError", r"communicator=Processes\(mesh.get_group\(\"replicate\"\)\)"),
        (average_inside_a_worker, "ArgumentError", r"holds a part of the same worker as ranks \[[13]\]"),
        (average_different_parts, "ArgumentError", r"hold different parts of their workers \(part \[(0, 1|1, 0)\]\)"),
        (shard_one_worker_only, "ArgumentError", r"of 2 processes that are to average, 1 have sharded parameters"),
        (
            shard_an_inner_layer_only,
            "ArgumentError",
            r"parameters \['unused', '2.weight'.*\] are whole and others sharded.*outermost",
        ),
        (shard_over_two_meshes, "ArgumentError", r"parameter '6.gain' lies on .*shard all of them over one mesh"),
        (shard_workers_along_different_dimensions, "DisagreementError", r"Shard\(dim=0\) of \[4, 4\] over 2 processes"),
        (
            shard_the_old_way,
            "ArgumentError",
            r"\(FSDP1\), whose parameters cannot be averaged; shard it with fully_shard",
        ),
        (two_rows, "ArgumentError", r"sharded parameters \(fully_shard\) and 2 rows"),
    ],
)
def test_what_cannot_be_averaged_is_refused_on_every_process_with_the_reason(processes, function, kind, message):
    for found, said in processes(function, PROCESSES):
        assert found == kind, said
        assert re.search(message, said), said


def try_options(schedule, options, dtype):
    mesh = halves()
    return caught(build, shard(odd(dtype), mesh), across(mesh), schedule, **options)


@pytest.mark.parametrize(
    ("schedule", "options", "dtype", "message"),
    [
        (
            Every(3),
            {"compression": BFloat16()},
            torch.float32,
            r"compression=BFloat16\(\) cannot be combined with sharded",
        ),
        (Every(3), {"overlap_steps": 1}, torch.float32, "overlap_steps=1 cannot be combined with sharded"),
        (Every(3), {"fragments": 2}, torch.float32, "fragments=2 cannot be combined with sharded"),
        (Every(3), {"optimizer_state": "average"}, torch.float32, "optimizer_state='average' cannot be combined"),
        (Hierarchical([2, 2]), {"topology": Topology((1, 2))}, torch.float32, "only one level of workers"),
        (EverySeconds(1.0), {}, torch.float32, r"EverySeconds\(.*would end their round after different steps"),
        (
            Every(3),
            {"outer": Nesterov()},
            torch.bfloat16,
            r"sharded in half precision, too coarse.*MixedPrecisionPolicy",
        ),
        (Every(3), {"measure_drift": True}, torch.float16, "sharded in half precision"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_that_need_whole_rows_are_refused(processes, schedule, options, dtype, message):
    for kind, said in processes(try_options, PROCESSES, schedule, options, dtype):
        assert kind == "ArgumentError", said
        assert re.search(message, said), said


def spoil_one_part(policy, schedule, *, in_gradients):
    model, optimizer, local = start(odd, OPTIMIZERS[0], schedule, non_finite=policy)
    data = batches(3, PROCESSES, dtype=torch.float64)
    train(model, optimizer, local, data[:1])
    if dist.get_rank() == 3 and not in_gradients:
        with torch.no_grad():
            model[2].weight.to_local()[0, 0] = float("nan")
    before = whole(model)

    def spoil():
        if not in_gradients:
            return local.sync()
        model(data[1][dist.get_rank()][0]).square().mean().backward()
        if dist.get_rank() == 3:
            model[2].weight.grad.to_local()[0, 0] = float("inf")
        return local.step()

    return caught(spoil), before, whole(model), parts(model)


@pytest.mark.parametrize(("schedule", "in_gradients"), [(Every(5), False), (Every(1), True)], ids=["sync", "gradients"])
def test_a_part_that_is_not_finite_is_named_on_every_process_of_every_worker(processes, schedule, in_gradients):
    def run(*args):
        return processes(spoil_gradients if in_gradients else spoil_parameters, PROCESSES, *args)

    for (kind, said), _, after, _ in run("raise", schedule):
        assert kind == "NonFiniteError"
        what = "the gradient of 2.weight" if in_gradients else "2.weight"
        assert f"worker 1 of 2: {what} is not finite" in said
        assert all(bool(tensor.isfinite().all()) for tensor in after.values())


def spoil_parameters(policy, schedule):
    return spoil_one_part(policy, schedule, in_gradients=False)


def spoil_gradients(policy, schedule):
    return spoil_one_part(policy, schedule, in_gradients=True)


def test_a_worker_with_one_part_that_is_not_finite_is_left_out_as_a_whole(processes):
    answers = processes(spoil_parameters, PROCESSES, "exclude", Every(5))
    (kind, said), before, _, _ = answers[0]
    assert (kind, said) == ("nothing", "")
    for _, _, after, _ in answers:
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_worker_whose_gradient_is_not_finite_steps_with_the_others(processes):
    answers = processes(spoil_gradients, PROCESSES, "exclude", Every(1))
    model = odd()
    model.load_state_dict(answers[0][1])
    optimizer = OPTIMIZERS[0](model.parameters())
    for inputs, _ in batches(3, PROCESSES, dtype=torch.float64)[1][:2]:  # those of worker 0
        (model(inputs).square().mean() / 2).backward()
    optimizer.step()
    for (kind, said), _, after, _ in answers:
        assert (kind, said) == ("nothing", "")
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(after[name], tensor, msg=name)


def replace_a_parameter():
    model, optimizer, local = start(odd, OPTIMIZERS[0], Every(5))
    train(model, optimizer, local, batches(1, PROCESSES, dtype=torch.float64))
    if dist.get_rank() == 2:
        model[5].bias = nn.Parameter(model[5].bias.detach().clone())
    return caught(local.sync)


def test_a_parameter_that_was_replaced_on_one_process_is_named_on_all(processes):
    for kind, said in processes(replace_a_parameter, PROCESSES):
        assert kind == "BrokenViewError"
        assert "worker 1 of 2: '5.bias' was replaced" in said


def load_into_one_worker():
    model, optimizer, local = start(odd, OPTIMIZERS[0], Every(1))
    data = batches(101, PROCESSES, dtype=torch.float64)
    train(model, optimizer, local, data[:1])
    if dist.get_rank() == 2:  # the first part of worker 1 only
        with torch.no_grad():
            model[2].weight.to_local().mul_(2)
    return caught(train, model, optimizer, local, data[1:])


def test_parts_that_are_no_replicas_any_more_are_noticed_on_all_processes(processes):
    for kind, said in processes(load_into_one_worker, PROCESSES):
        assert kind == "DisagreementError"
        assert "are no replicas of each other any more" in said


def parts_of_a_worker_mean_different_schedules():
    mesh = halves()
    return caught(build, shard(odd(), mesh), across(mesh), Every(2 + mesh.get_local_rank("shard")))


def one_part_of_each_worker_has_a_bad_option():
    mesh = halves()
    return caught(build, shard(odd(), mesh), across(mesh), fragments=1 + mesh.get_local_rank("shard"))


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (
            parts_of_a_worker_mean_different_schedules,
            "DisagreementError",
            r"process 1 of 2 has option .*Every\(period=3\)",
        ),
        (one_part_of_each_worker_has_a_bad_option, "ArgumentError", r"fragments=2 cannot be combined with sharded"),
    ],
)
def test_the_parts_of_a_worker_are_compared_as_well(processes, function, kind, message):
    for found, said in processes(function, PROCESSES):
        assert found == kind, said
        assert re.search(message, said), said
