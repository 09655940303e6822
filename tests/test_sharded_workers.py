"""Around the steps of sharded workers (FSDP2): reading the consensus, resuming, stopping, what a sync costs."""

import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import SGD, AdamW

import localsgd.averaging.averager
from localsgd import Every, LocalSGD, Never, PostLocal
from localsgd.outer import Nesterov
from tests.allocations import peak_bytes
from tests.equivalence.plain import OPTIMIZERS, batches, loss_of
from tests.sharded import PROCESSES, across, halves, normed, odd, parts, shard, start, train, whole

INPUTS = torch.linspace(-1, 1, 21, dtype=torch.float64).view(3, 7)


def data(num_steps):
    return batches(num_steps, PROCESSES, dtype=torch.float64)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def read_consensus():
    model, optimizer, local = start(normed, OPTIMIZERS[1], Every(3))
    train(model, optimizer, local, data(2))
    before, mine = parts(model), model(INPUTS)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), local.averaged() as consensus:
        consensus.eval()
        seen = consensus(INPUTS)
    assert equal(parts(model), before)
    assert model.training
    with torch.no_grad():
        again = model(INPUTS)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    local.sync()
    model.eval()
    with torch.no_grad():
        return seen, mine, again, model(INPUTS)


def test_the_consensus_can_be_read_and_leaves_no_trace(processes):
    answers = processes(read_consensus, PROCESSES)
    for seen, mine, again, _ in answers:
        assert torch.equal(seen, answers[0][0])
        assert torch.equal(again, mine.detach())
        assert not torch.equal(seen, mine)
    assert not torch.equal(answers[0][1], answers[2][1])


def sync_after_evaluation():
    model, optimizer, local = start(odd, OPTIMIZERS[0], Never())
    train(model, optimizer, local, data(2))
    with torch.no_grad():
        model(INPUTS)  # leaves the outermost module's parameters whole
        gathered = not hasattr(model.unused, "placements")
        local.sync()
        seen = model(INPUTS)
        reference = odd()
        reference.load_state_dict(whole_after_reshard(model))
        return gathered, seen, reference(INPUTS)


def whole_after_reshard(model):
    model.reshard()
    return whole(model)


def test_a_sync_after_an_evaluation_reaches_the_next_forward_pass(processes):
    for gathered, seen, expected in processes(sync_after_evaluation, PROCESSES):
        assert gathered
        torch.testing.assert_close(seen, expected)


def construct_after_evaluation():
    mesh, model = halves(), odd()
    shard(model, mesh)
    optimizer = OPTIMIZERS[1](model.parameters())
    with torch.no_grad():
        model(INPUTS)
    local = LocalSGD(model, optimizer, Every(2), communicator=across(mesh))
    train(model, optimizer, local, data(2))
    return whole(model)


def test_a_model_that_has_been_evaluated_before_can_be_trained(processes):
    answers = processes(construct_after_evaluation, PROCESSES)
    assert all(equal(answer, answers[0]) for answer in answers)


def stop_and_resume(schedule):
    def build():
        return start(odd, OPTIMIZERS[1], schedule, outer=Nesterov(lr=0.7, momentum=0.9), measure_drift=True)

    unbroken = build()
    train(*unbroken, data(9))
    first = build()
    train(*first, data(9)[:4])
    file = io.BytesIO()
    model, optimizer, local = first
    torch.save([parts(model), optimizer.state_dict(), local.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    model, optimizer, local = second = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.to_local().copy_(saved[0][name])
    optimizer.load_state_dict(saved[1])
    local.load_state_dict(saved[2])
    train(*second, data(9)[4:])
    return [parts(model) for model, _, _ in (unbroken, second)], [
        own.last_sync.drift_norm for _, _, own in (unbroken, second)
    ]


@pytest.mark.parametrize("schedule", [Every(3), PostLocal(3, 3)], ids=str)
def test_resuming_inside_a_round_is_exact(processes, schedule):
    for (unbroken, resumed), drifts in processes(stop_and_resume, PROCESSES, schedule):
        assert equal(unbroken, resumed)
        assert drifts[0] == drifts[1] > 0


def ask_one_process_to_stop():
    model, _, local = start(odd, OPTIMIZERS[0], Every(2))
    if dist.get_rank() == 3:
        local.request_stop()
    told = []
    for row in data(2):
        loss = loss_of(model, row[dist.get_rank()])
        local.observe(float(dist.get_rank()))
        loss.backward()
        local.step()
        told.append(local.stop_requested)
    return told, local.last_sync.train_loss, local.last_sync.finite_workers


def test_all_processes_of_all_workers_learn_the_same(processes):
    assert processes(ask_one_process_to_stop, PROCESSES) == [([False, True], 1.5, 2)] * PROCESSES


def ask_one_process_of_the_only_worker_to_stop():
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    model = shard(odd(), mesh)
    local = LocalSGD(model, SGD(model.parameters(), lr=0.1), Every(2), communicator=across(mesh))
    if dist.get_rank() == 1:
        local.request_stop()
    told = []
    for row in data(2):
        loss_of(model, row[dist.get_rank()]).backward()
        local.step()
        told.append(local.stop_requested)
    return told


def test_the_processes_of_a_single_worker_stop_together(processes):
    assert processes(ask_one_process_of_the_only_worker_to_stop, 2) == [[False, True]] * 2


def scaled(schedule):
    def run(scaler):
        model, optimizer, local = start(odd, OPTIMIZERS[0], schedule, clip_norm=0.5)
        for row in data(5):
            loss = loss_of(model, row[dist.get_rank()])
            (loss if scaler is None else scaler.scale(loss)).backward()
            local.step(scaler=scaler)
            if scaler is not None:
                scaler.update()
            optimizer.zero_grad()
        local.finish()
        return whole(model)

    return run(None), run(torch.amp.GradScaler("cpu", init_scale=1024.0))


@pytest.mark.parametrize("schedule", [Every(2), PostLocal(2, 2)], ids=str)
def test_a_gradient_scaler_changes_nothing(processes, schedule):
    for plain, with_scaler in processes(scaled, PROCESSES, schedule):
        for name, tensor in plain.items():
            torch.testing.assert_close(with_scaler[name], tensor, msg=name)


def train_in_half_precision():
    mesh, model = halves(), odd(torch.float32)
    shard(model, mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    optimizer = AdamW(model.parameters(), lr=0.01)
    local = LocalSGD(model, optimizer, PostLocal(2, 2), communicator=across(mesh), outer=Nesterov())
    for row in batches(4, PROCESSES):
        loss_of(model, (row[dist.get_rank()][0].bfloat16(), row[dist.get_rank()][1])).backward()
        local.step()
        optimizer.zero_grad()
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return dtypes, parts(model), whole(model)


def test_parameters_stay_in_float32_where_only_the_computation_is_in_half_precision(processes):
    answers = processes(train_in_half_precision, PROCESSES)
    assert all(dtypes == {torch.float32} for dtypes, _, _ in answers)
    assert all(equal(answer[2], answers[0][2]) for answer in answers)
    assert all(bool(tensor.isfinite().all()) for tensor in answers[0][2].values())


def average_half_precision():
    mesh, model = halves(), shard(odd(torch.bfloat16), halves())
    local = LocalSGD(model, SGD(model.parameters(), lr=0.1), Never(), communicator=across(mesh))
    value = [1.0, 1.0078125][mesh.get_local_rank("replicate")]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3 * value)
    local.sync()
    exact = torch.tensor(3 * (1.0 + 1.0078125) / 2).bfloat16()
    return {bool((part == exact).all()) for name, part in parts(model).items() if name != "0.bias"}, local.last_sync


def test_half_precision_parameters_are_averaged_in_float32(processes):
    for found, report in processes(average_half_precision, PROCESSES):
        assert found == {True}
        assert report.bytes_sent == report.wire_bytes


def follow_the_optimizer():
    model, optimizer, local = start(odd, OPTIMIZERS[2], PostLocal(2, 2))
    with local.attach():
        for row in data(4):
            loss_of(model, row[dist.get_rank()]).backward()
            optimizer.step()
            optimizer.zero_grad()
    other, optimizer, local = start(odd, OPTIMIZERS[2], PostLocal(2, 2))
    train(other, optimizer, local, data(4))
    return whole(model), whole(other)


def test_attaching_to_the_optimizer_gives_the_same(processes):
    for attached, called in processes(follow_the_optimizer, PROCESSES):
        assert equal(attached, called)


class Spy:
    """A communicator that notes how large the vectors are."""

    def __init__(self, inner):
        self._inner, self.rank, self.world_size, self.sizes = inner, inner.rank, inner.world_size, []

    @property
    def wire_bytes(self):
        return self._inner.wire_bytes

    def all_reduce_(self, vector):
        self.sizes.append(vector.numel() * vector.element_size())
        self._inner.all_reduce_(vector)

    def broadcast_(self, tensor, *, source=0):
        self._inner.broadcast_(tensor, source=source)

    def gather(self, item):
        return self._inner.gather(item)


def measure_syncs(schedule):
    """Sizes of all-reduces, and the most memory that a sync takes at a time, with buckets of 4 KiB."""
    mesh = halves()
    model = nn.Sequential(nn.Linear(101, 211), nn.Linear(211, 103), nn.Linear(103, 1))
    shard(model, mesh)
    optimizer, spy = SGD(model.parameters(), lr=0.1), Spy(across(mesh))
    local = LocalSGD(model, optimizer, schedule, communicator=spy)
    held = sum(part.numel() * part.element_size() for part in parts(model).values())
    original, localsgd.averaging.averager.HOST_BUCKET_BYTES = localsgd.averaging.averager.HOST_BUCKET_BYTES, 4096
    try:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 101)).sum().backward()
            if local.steps < 2:
                local.step()
        spy.sizes.clear()
        peak = peak_bytes(local.step)
    finally:
        localsgd.averaging.averager.HOST_BUCKET_BYTES = original
    return held, list(spy.sizes), peak, local.last_sync


@pytest.mark.parametrize("schedule", [Every(3), Every(1)], ids=str)
def test_a_sync_takes_the_memory_of_one_bucket_and_sends_every_element_once(processes, schedule):
    for held, sizes, peak, report in processes(measure_syncs, PROCESSES, schedule):
        assert held > 20 * 4096
        assert max(sizes) == 4096
        assert 4096 <= peak < 4096 + 4096
        extra = 64 + (
            24 if schedule == Every(1) else 0
        )  # facts; in rounds of one step a count for each of six parameters
        assert sum(sizes) == held + extra
        assert len(sizes) == -(-sum(sizes) // 4096)
        assert report.wire_bytes == report.bytes_sent == sum(sizes)
