"""Draws and learning rates that wait on the device for their steps."""

import torch

from localsgd.lab.engine.inputs import StepInputs

CPU = torch.device("cpu")


class Draws:
    """A task of which only the draws are asked for: they spell out step and worker."""

    def draw(self, *, step, worker):
        return torch.tensor([[step, worker, 0], [step, worker, 1]])


def test_every_step_reads_its_own_draws_and_rate_in_tensors_that_stay_where_they_are():
    inputs = StepInputs(Draws(), range(2, 5), CPU, capacity=4)
    rate = inputs.rate
    for steps in (range(7, 10), range(10, 14), range(14, 15)):
        inputs.fill(steps, lambda step: 1 / (1 + step))
        for step in steps:
            draws = inputs.read()
            assert draws.shape == (3, 2, 3)
            expected = [[[step, worker, place] for place in (0, 1)] for worker in (2, 3, 4)]
            assert draws.tolist() == expected
            assert inputs.rate is rate
            assert rate.item() == 1 / (1 + step)


class CountedDraws(Draws):
    """Also counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def draw(self, *, step, worker):
        self.asked.append((step, worker))
        return super().draw(step=step, worker=worker)


def test_steps_that_were_prepared_are_drawn_once_and_others_take_their_place():
    task = CountedDraws()
    inputs = StepInputs(task, range(1), CPU, capacity=4)
    inputs.fill(range(2), float)
    inputs.prepare(range(2, 5), float)
    task.asked.clear()
    seen = [inputs.read()[0, 0, 0].item() for _ in range(2)]  # what is prepared disturbs nothing
    for steps, drawn in ((range(2, 6), [5]), (range(6, 8), [6, 7])):
        inputs.fill(steps, float)
        assert [step for step, _ in task.asked] == drawn
        task.asked.clear()
        for _ in steps:
            seen.append(inputs.read()[0, 0, 0].item())
            assert inputs.rate.item() == seen[-1]
    inputs.prepare(range(8, 12), float)
    inputs.fill(range(8, 9), float)  # fewer than were prepared
    inputs.fill(range(20, 22), float)  # others than were prepared
    seen += [inputs.read()[0, 0, 0].item() for _ in range(2)]
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 20, 21]
