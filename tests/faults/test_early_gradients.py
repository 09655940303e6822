"""Gradients sent too early: changed, unfinished, not finite, or never asked for. Nothing is wrong, and nobody hangs."""

import functools
import math
import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.utils import clip_grad_norm_

from localsgd import ArgumentError, Every, LocalSGD, NonFiniteError, StateError, SyncError
from localsgd.gradients import pipeline as gradient_pipeline
from tests.equivalence.overlapping import num_ahead, pipeline_of, small_buckets, train_ahead
from tests.equivalence.plain import OPTIMIZERS, batches, loss_of, perceptron

NUM_STEPS = 14


class Deep(nn.Module):
    """Every layer after the second is used or left out, as the batch says: not alike on all processes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.layers = nn.ModuleList([nn.Linear(7, 7) for _ in range(6)])
        self.last = nn.Linear(7, 3)

    def forward(self, batch):
        inputs = batch
        for index, layer in enumerate(self.layers):
            if index < 2 or batch[index % len(batch), 0] > 0:
                inputs = torch.tanh(layer(inputs))
        return self.last(inputs)


def double_deep():
    return Deep().double()


def both(change):
    """The same changes, with gradients sent ahead and without."""
    data = batches(NUM_STEPS, dist.get_world_size(), dtype=torch.float64)
    options = {"backward": change} if change else {}
    return [
        train_ahead(double_deep, OPTIMIZERS[2], data, overlap_gradients=overlaps, **options)
        for overlaps in (True, False)
    ]


def clip_from(local, model, batch, step, *, first, ranks):
    loss_of(model, batch).backward()
    if step >= first and dist.get_rank() in ranks:
        clip_grad_norm_(model.parameters(), 0.01)


def clip_sometimes(local, model, batch, step):
    loss_of(model, batch).backward()
    if step in {4, 9}:
        clip_grad_norm_(model.parameters(), 0.01)


def replace_one(local, model, batch, step):
    loss_of(model, batch).backward()
    if step >= 4:
        model.last.weight.grad = torch.ones_like(model.last.weight)


def take_away(local, model, batch, step):
    loss_of(model, batch).backward()
    if step >= 4 and dist.get_rank() == 0:
        model.last.weight.grad = None


def scale_untraced(local, model, batch, step):
    loss_of(model, batch).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.mul_(0.1)


def sum_by_hand(local, model, batch, step):
    loss_of(model, batch).backward()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(parameter.grad)


def uneven_accumulation(local, model, batch, step):
    for _ in range(1 + (step > 4) * (1 + dist.get_rank())):
        loss_of(model, batch).backward()


def try_first(local, model, batch, step):
    """One process computes gradients that it throws away."""
    if dist.get_rank() == 0 and step in {3, 5}:
        loss_of(model, batch).backward()
        model.zero_grad()
    loss_of(model, batch).backward()


def keep_zeros(local, model, batch, step):
    model.zero_grad(set_to_none=False)
    loss_of(model, batch).backward()


def fail_midway(local, model, batch, step):
    """Backward breaks off on one process, which tries again."""

    def explode(gradient):
        raise MemoryError

    if step == 6 and dist.get_rank() == 1:
        hidden = torch.tanh(model.layers[0](batch[0]))
        hidden.register_hook(explode)
        for layer in model.layers[1:]:
            hidden = torch.tanh(layer(hidden))
        with pytest.raises(MemoryError):
            model.last(hidden).sum().backward()
        assert num_ahead(local) > 0 or pipeline_of(local) is None
        model.zero_grad()
    loss_of(model, batch).backward()


def talk_in_between(local, model, batch, step):
    """Other exchanges come between backward and step, when processes have sent unequal numbers of buckets."""
    loss_of(model, batch).backward()
    told = torch.tensor([float(dist.get_rank())])
    dist.all_reduce(told)
    assert told.item() == sum(range(dist.get_world_size()))
    if step in {4, 7}:
        with local.averaged() as consensus:
            loss_of(consensus, batch)
    if step == 9:
        local.sync()
    if step == 10:
        local.finish()


def study_the_consensus(local, model, batch, step):
    with local.averaged() as consensus:
        loss_of(consensus, batch).backward()
        assert num_ahead(local) == 0
        consensus.zero_grad()
    loss_of(model, batch).backward()


CHANGES = {
    "clipped from the start": functools.partial(clip_from, first=0, ranks={0, 1, 2}),
    "clipped later": functools.partial(clip_from, first=5, ranks={0, 1, 2}),
    "clipped by one process": functools.partial(clip_from, first=5, ranks={1}),
    "clipped now and then": clip_sometimes,
    "another tensor": replace_one,
    "taken away": take_away,
    "without a trace": scale_untraced,
    "summed by the loop": sum_by_hand,
    "uneven accumulation": uneven_accumulation,
    "thrown away": try_first,
    "zeros instead of None": keep_zeros,
    "backward broke off": fail_midway,
    "other exchanges": talk_in_between,
    "a study of the consensus": study_the_consensus,
    "layers left out": None,
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_happens_to_gradients_the_step_takes_their_mean(what, processes):
    results = processes(both, 3, CHANGES[what])
    for (ahead, started), (after, _) in results:
        for name, theirs in after.items():
            torch.testing.assert_close(ahead[name], theirs, rtol=1e-9, atol=1e-12)
        assert all(torch.equal(ahead[name], results[0][0][0][name]) for name in ahead)
        if what in {"another tensor", "clipped later", "thrown away", "other exchanges", "zeros instead of None"}:
            assert any(started)
        if what in {"clipped from the start", "without a trace", "summed by the loop"}:
            assert not any(started)
    if what == "other exchanges":
        sent = [ahead[1] for ahead, _ in results]
        assert any(len({*numbers}) > 1 for numbers in zip(*sent, strict=True)), "all had sent the same"


def start_late(local, model, batch, step):
    loss_of(model, batch).backward()
    if step >= 7 and dist.get_rank() == 1:
        model.last.weight.grad.data.clamp_(-1e-3, 1e-3)


def audited():
    gradient_pipeline._AUDIT_ROUNDS = 4
    try:
        train_ahead(double_deep, OPTIMIZERS[0], batches(30, 2, dtype=torch.float64), backward=start_late)
    except StateError as error:
        return str(error)
    finally:
        gradient_pipeline._AUDIT_ROUNDS = 100
    return "nothing"


def test_changes_without_a_trace_that_begin_later_are_found_by_an_audit_and_told_to_all(processes):
    first, second = processes(audited, 2)
    assert first == second
    assert first.startswith("1 process(es) changed gradients between backward and step ")
    assert first.endswith("Construct LocalSGD with overlap_gradients=False.")


def poison(local, model, batch, step, *, value):
    """One gradient is not finite, in the bucket that is sent first."""
    loss = loss_of(model, batch)
    if step == 5 and dist.get_rank() == 1:
        loss = loss + (model.last.bias * value).sum()
    loss.backward()


def not_finite(policy, value):
    data, found = batches(9, 3, dtype=torch.float64), []
    for overlaps in (True, False):
        change = functools.partial(poison, value=value)
        options = {"non_finite": policy, "overlap_gradients": overlaps}
        try:
            found.append(train_ahead(double_deep, OPTIMIZERS[2], data, backward=change, **options)[0])
        except NonFiniteError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_named_as_if_it_had_not_been_sent(value, processes):
    told = {message for pair in processes(not_finite, 3, "raise", value) for message in pair}
    assert len(told) == 1
    assert told.pop().startswith("worker 1 of 3: the gradient of last.bias is not finite ")


def test_a_worker_can_be_left_out_although_its_gradients_were_sent(processes):
    results = processes(not_finite, 3, "exclude", math.nan)
    for ahead, after in results:
        for name, theirs in after.items():
            assert bool(theirs.isfinite().all())
            torch.testing.assert_close(ahead[name], theirs, rtol=1e-9, atol=1e-12)


def sparse():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 40), nn.Embedding(50, 40, sparse=True))
    with small_buckets():
        local = LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), Every(1))
        assert pipeline_of(local) is not None
        (model[0](torch.ones(2, 4)) * model[1](torch.tensor([1, 2]))).sum().backward()
        try:
            local.step()
        except ArgumentError as error:
            return str(error)
    return "nothing"


def test_a_sparse_gradient_is_refused_by_the_step_not_by_backward(processes):
    assert all("'1.weight' has a sparse gradient" in message for message in processes(sparse, 2))


def half_and_double():
    torch.manual_seed(0)
    layers = [nn.Linear(7, 9, dtype=torch.bfloat16), nn.Linear(9, 9, dtype=torch.bfloat16)]
    layers += [nn.Linear(9, 9, dtype=torch.float64), nn.Linear(9, 3, dtype=torch.float64)]
    return nn.ModuleList(layers)


def several_dtypes():
    found = []
    for overlaps in (True, False):
        with small_buckets():
            model, rank = half_and_double(), dist.get_rank()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            local = LocalSGD(model, optimizer, Every(1), overlap_gradients=overlaps)
            started = []
            for row in batches(5, 2, dtype=torch.bfloat16):
                hidden = model[1](model[0](row[rank][0]).tanh()).tanh().double()
                nn.functional.cross_entropy(model[3](model[2](hidden)), row[rank][1]).backward()
                started.append(num_ahead(local))
                local.step()
                optimizer.zero_grad()
            found.append((started, [p.detach().clone() for p in model.parameters()]))
    return found


def test_parameters_of_several_dtypes_are_sent_ahead_in_vectors_of_their_own(processes):
    for (started, ours), (_, theirs) in processes(several_dtypes, 2):
        assert min(started[1:]) > 1
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("how", ["dies", "stops_calling"])
def test_a_process_that_fails_between_two_steps_is_missed_in_bounded_time(how, tmp_path):
    context = mp.get_context("spawn")
    results = context.Queue()
    arguments = [(rank, how, str(tmp_path / "rendezvous"), results) for rank in range(2)]
    processes = [context.Process(target=_train, args=own, daemon=True) for own in arguments]
    for process in processes:
        process.start()
    try:
        kind, message = results.get(timeout=60)
        processes[0].join(timeout=30)
        assert processes[0].exitcode == 0, "the survivor could not end"
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert kind == "SyncError", message
    assert message.startswith("sync at level 1 after step 6 failed: ")


def _train(rank, how, rendezvous, results):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=4)
    )
    model = perceptron()
    try:
        with small_buckets():
            local = LocalSGD(model, OPTIMIZERS[0](model.parameters()), Every(1))
            for step, row in enumerate(batches(10, 2), start=1):
                if rank == 1 and step == 6:
                    time.sleep(60) if how == "stops_calling" else os._exit(1)
                loss_of(model, row[rank]).backward()
                assert step == 1 or num_ahead(local) > 0
                local.step()
    except SyncError as error:
        results.put((type(error).__name__, str(error)))
    except BaseException as error:  # noqa: BLE001 - the parent must see whatever came instead
        results.put((type(error).__name__, repr(error)))
    finally:
        dist.destroy_process_group()
