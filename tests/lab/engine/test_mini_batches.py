"""Rounds of one step in the graph engine: which way they are taken, and that they can be taken back."""

import pytest
import torch

from localsgd import ArgumentError, LocalSGD, replicate
from localsgd.communicators import OneProcess
from localsgd.lab.data import load
from localsgd.lab.engine import Crew, GraphEngine, Losses
from localsgd.lab.engine.captured_rows import CapturedRows
from localsgd.lab.engine.replay import Measured
from localsgd.lab.engine.rewind import Rewind
from localsgd.lab.forward import Forward
from localsgd.lab.models import build
from localsgd.lab.optimizers import make_optimizer, make_outer
from localsgd.lab.plan import make_plan
from localsgd.lab.tasks import make_task
from tests.lab.small_runs import CPU, config

GIB = 2**30


def make_crew(*overrides, name="digits-mlp"):
    own = config("engine=graph", "algorithm=minibatch", *overrides, name=name)
    forward = Forward(own, CPU)
    task = make_task(own, load("digits", train_limit=200, test_limit=90), forward)
    plan = make_plan(own, num_samples=task.num_samples)
    models = replicate(build(own.model.name, seed=0, inputs=task.inputs), own.workers)
    optimizers = [make_optimizer(model, own.optimizer, learning_rate=0.1) for model in models]
    local = LocalSGD(
        models,
        optimizers,
        plan.schedule,
        communicator=OneProcess(),
        topology=plan.topology,
        outer=make_outer(own.outer),
        clip_norm=own.optimizer.clip_norm,
        measure_drift=True,
    )
    losses = Losses(local, plan.schedule, num_rows=own.workers, device=CPU)
    return Crew(plan=plan, task=task, models=models, optimizers=optimizers, local=local, losses=losses)


def take(engine, crew, num_steps):
    """Take steps; tell how many came in each call, and whether other rows had gradients when row 0 stepped."""
    others_had, taken = [], []

    def look(*_):
        others_had.append(all(parameter.grad is not None for parameter in crew.models[-1].parameters()))

    hook = crew.optimizers[0].register_step_pre_hook(look)
    while sum(taken) < num_steps:
        taken.append(engine.take_steps(crew.local.steps, num_steps - sum(taken)))
    hook.remove()
    return taken, others_had


@pytest.mark.parametrize(
    ("overrides", "taken", "together"),
    [
        ([], [1, 5], [False] + [True] * 5),
        (["outer.name=slowmo"], [1] * 6, [False] + [True] * 5),
        (["algorithm=hierarchical", "block_size=2", "block_period=2", "period=1"], [1] * 6, [False] * 6),
    ],
    ids=["whole", "halves", "row by row"],
)
def test_each_run_is_taken_in_the_fastest_way_it_allows(overrides, taken, together):
    crew = make_crew(*overrides)
    assert take(GraphEngine(crew), crew, 6) == (taken, together)


def test_the_first_step_after_a_model_was_loaded_goes_row_by_row_again():
    crew = make_crew()
    engine = GraphEngine(crew)
    take(engine, crew, 4)
    engine.adopt()
    assert take(engine, crew, 4) == ([1, 3], [False, True, True, True])


def test_a_parameter_that_no_worker_has_a_gradient_for_is_taken_row_by_row():
    crew = make_crew()
    for model in crew.models:
        model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    unused = make_crew_around(crew)
    taken, together = take(GraphEngine(unused), unused, 3)
    assert (taken, together) == ([1] * 3, [False] * 3)
    assert all(torch.equal(model.unused, torch.ones(3)) for model in unused.models)


def make_crew_around(crew):
    """The same models with optimizers and a LocalSGD of their own."""
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, fused=True) for model in crew.models]
    local = LocalSGD(crew.models, optimizers, crew.plan.schedule, communicator=OneProcess())
    losses = Losses(local, crew.plan.schedule, num_rows=len(crew.models), device=CPU)
    return Crew(plan=crew.plan, task=crew.task, models=crew.models, optimizers=optimizers, local=local, losses=losses)


def test_every_round_of_a_chunk_has_its_report():
    crew = make_crew()
    take(GraphEngine(crew), crew, 6)
    reports = crew.local.recent_syncs
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {report.kind for report in reports} == {"gradients"}
    assert len({report.bytes_sent for report in reports}) == 1
    rates = [report.learning_rate for report in reports]
    assert rates == pytest.approx([crew.plan.learning_rate(step) for step in range(6)], abs=1e-12)
    assert crew.local.totals.rounds == 6


def state_of(crew):
    """Everything that a step changes, by row."""
    models = [{name: value.clone() for name, value in model.state_dict().items()} for model in crew.models]
    states = [
        [{name: value.clone() for name, value in optimizer.state.get(p, {}).items()} for p in model.parameters()]
        for model, optimizer in zip(crew.models, crew.optimizers, strict=True)
    ]
    return {"models": models, "optimizers": states, "losses": crew.losses.sums.clone()}


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("overrides", [[], ["optimizer.name=adamw", "optimizer.nesterov=false"]], ids=["SGD", "AdamW"])
def test_a_rewind_puts_everything_back_where_it_was_and_tensors_stay_in_place(overrides, before, request):
    crew = make_crew(*overrides, name="digits-cnn")
    engine, rewind = GraphEngine(crew), Rewind(crew)
    take(engine, crew, before)
    for _ in range(2):  # the second one uses the memory of the first
        rewind.mark()
        expected = state_of(crew)
        places = [tensor.data_ptr() for tensor in tensors_of(crew)]
        take(engine, crew, 2)
        assert not torch.equal(expected["losses"], crew.losses.sums)
        rewind.restore()
        torch.testing.assert_close(state_of(crew), expected, rtol=0, atol=0)
        assert [tensor.data_ptr() for tensor in tensors_of(crew)] == places
        take(engine, crew, 2)


def tensors_of(crew):
    parameters = [parameter for model in crew.models for parameter in model.parameters()]
    states = [s for optimizer in crew.optimizers for state in optimizer.state.values() for s in state.values()]
    return [*parameters, *states]


def test_what_all_rows_keep_is_counted_before_anything_is_captured_and_refused_if_it_does_not_fit():
    model_bytes = 4 * 9610

    def engine(overrides, free):
        def measure(piece):
            piece()
            return Measured(passing=GIB, lasting=model_bytes, free=free)

        return GraphEngine(make_crew("workers=8", *overrides), measure=measure)

    # Gradients of 7 more rows; two vectors of the mean, a copy of a row; momenta of 8 rows and of that copy: one with
    # SGD, two with AdamW.
    for overrides, models in (([], 7 + 3 + 9), (["optimizer.name=adamw", "optimizer.nesterov=false"], 7 + 3 + 2 * 9)):
        needed = int(1.25 * GIB) + models * model_bytes
        assert engine(overrides, needed).take_steps(0, 1) == 1
        with pytest.raises(
            ArgumentError, match=r"needs 1.25 GiB .* for gradients and optimizers of all, 1.25 GiB are free"
        ):
            engine(overrides, needed - 1).take_steps(0, 1)


def test_the_prediction_covers_what_is_really_held():
    crew = make_crew("workers=8", "optimizer.name=adamw", "optimizer.nesterov=false")
    rewind, engine = Rewind(crew), GraphEngine(crew)
    predicted = CapturedRows(crew, crew.task, measure=None).mean_bytes
    take(engine, crew, 3)
    rewind.mark()
    states = sum(s.nbytes for o in crew.optimizers for state in o.state.values() for s in state.values())
    vectors = 2 * crew.local.rows.groups[0].layout.num_parameters * 4
    held = states + vectors + 3 * crew.local.rows.groups[0].layout.num_parameters * 4
    # But for the counters of AdamW and the gaps that align tensors.
    assert held * 0.98 < predicted <= held
    taken = CapturedRows(crew, crew.task, measure=None).mean_bytes  # the states are there by now
    assert predicted - taken == 8 * 2 * 4 * 9610
