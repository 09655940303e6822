"""Workers sharded over processes (FSDP2) equal whole ones: plain torch where it can be written down, rows elsewhere."""

import pytest
import torch
import torch.distributed as dist

from localsgd import DriftTriggered, Every, PostLocal, sync_steps
from localsgd.outer import BlockMomentum, Nesterov, Outer, SlowMo
from tests.equivalence.plain import OPTIMIZERS, batches, train_local_sgd
from tests.equivalence.running import train_rows
from tests.sharded import PROCESSES, normed, odd, parts, start, train, whole, worker_batches

NUM_STEPS = 7
SCHEDULES = [Every(1), Every(3), PostLocal(3, 2)]
DOUBLE = {"rtol": 1e-9, "atol": 1e-11}


def data():
    return batches(NUM_STEPS, PROCESSES, dtype=torch.float64)


def train_sharded(make_model, schedule, options, optimizers):
    found = []
    for make in optimizers:
        model, optimizer, local = start(make_model, make, schedule, **options)
        train(model, optimizer, local, data())
        local.finish()
        found.append((whole(model), parts(model), local.last_sync, local.totals))
    return found


def same(state, reference):
    assert set(reference) >= set(state)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, reference[name], **DOUBLE, msg=name)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_sharded_workers_equal_local_sgd_on_whole_models(processes, schedule):
    answers = processes(train_sharded, PROCESSES, odd, schedule, {}, OPTIMIZERS)
    steps = [*sync_steps(schedule, NUM_STEPS)]
    steps += [] if steps[-1] == NUM_STEPS else [NUM_STEPS]
    for index, make in enumerate(OPTIMIZERS):
        reference = train_local_sgd(odd(), make, worker_batches(data()), steps)[0].state_dict()
        for answer in answers:
            same(answer[index][0], reference)
        for name, part in answers[0][index][1].items():
            assert torch.equal(part, answers[2][index][1][name]), name
        assert {part.numel() for part in answers[1][index][1].values()} & {0}


def test_the_second_process_of_each_worker_agrees_bit_for_bit_with_the_second_of_the_other(processes):
    answers = processes(train_sharded, PROCESSES, odd, Every(3), {}, OPTIMIZERS[1:])
    for mine, other in zip(answers[1], answers[3], strict=True):
        assert all(torch.equal(part, other[1][name]) for name, part in mine[1].items())


OPTIONS = [
    {"outer": Nesterov(lr=0.7, momentum=0.9), "measure_drift": True},
    {"outer": SlowMo(lr=0.9, momentum=0.5)},
    {"outer": BlockMomentum(0.3)},
    {"outer": Outer(torch.optim.Adam, lr=0.01)},
    {"clip_norm": 0.2, "measure_drift": True},
    {"one_step_rounds": "parameters"},
    {"optimizer_state": "reset"},
]


@pytest.mark.parametrize("schedule", [Every(3), PostLocal(3, 2)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_do_to_sharded_workers_what_they_do_to_rows(processes, schedule, options):
    answers = processes(train_sharded, PROCESSES, odd, schedule, options, OPTIMIZERS[1:2])
    models, local, _ = train_rows(odd(), OPTIMIZERS[1], worker_batches(data()), schedule, **options)
    for ((state, _, report, totals),) in answers:
        same(state, models[0].state_dict())
        expected = local.last_sync
        assert (report.step, report.kind, report.round) == (expected.step, expected.kind, expected.round)
        assert report.learning_rate == expected.learning_rate
        assert totals.rounds == local.totals.rounds
        if options.get("measure_drift"):
            assert report.drift_norm == pytest.approx(expected.drift_norm, rel=1e-6)
            assert report.cosine == pytest.approx(expected.cosine, rel=1e-5)


def train_until_drifted():
    model, optimizer, local = start(odd, OPTIMIZERS[0], DriftTriggered(threshold=0.08, max_period=5))
    return train(model, optimizer, local, data())


def test_a_schedule_that_watches_drift_sees_that_of_whole_workers(processes):
    logs = processes(train_until_drifted, PROCESSES)
    _, _, expected = train_rows(
        odd(), OPTIMIZERS[0], worker_batches(data()), DriftTriggered(threshold=0.08, max_period=5)
    )
    steps = [step for step, _, _ in expected if step <= NUM_STEPS]
    assert 1 < len(steps) < NUM_STEPS
    assert all([step for step, _ in log] == steps[: len(log)] and log for log in logs)


def train_normed(policy):
    found = []
    for schedule in (Every(2), PostLocal(2, 2)):
        model, optimizer, local = start(normed, OPTIMIZERS[0], schedule, buffers=policy)
        train(model, optimizer, local, data()[:1])
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        train(model, optimizer, local, data()[1:2])
        found.append((local.last_sync.kind, before, whole(model)))
    return found


def test_batch_norm_statistics_become_the_same_on_all_processes(processes):
    for kinds in zip(*processes(train_normed, PROCESSES, "average"), strict=True):
        for name in kinds[0][1]:
            for _, _, after in kinds[1:]:
                assert torch.equal(after[name], kinds[0][2][name]), name
    assert {found[0] for found in processes(train_normed, PROCESSES, "average")[0]} == {"parameters", "gradients"}


def sync_statistics(policy):
    model, _, local = start(normed, OPTIMIZERS[0], Every(2), buffers=policy)
    statistics = model[2].running_mean
    statistics.fill_(2.0 ** dist.get_rank())
    local.sync()
    return model[2].running_mean.tolist()


@pytest.mark.parametrize(
    ("policy", "expected"), [("average", [15 / 4] * 4), ("broadcast", [1.5] * 4), ("local", [1, 2, 4, 8])]
)
def test_buffers_are_averaged_over_all_processes_or_taken_from_worker_0_or_left(processes, policy, expected):
    assert processes(sync_statistics, PROCESSES, policy) == [[value] * 3 for value in expected]
