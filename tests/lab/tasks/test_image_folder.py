"""Images on disk train as those in memory do: from one command, on any number of processes, and resumed."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from localsgd import OneProcess
from localsgd.lab.data import FolderTrainingBatches, SampleStream
from localsgd.lab.evaluation import Evaluator
from localsgd.lab.forward import Forward
from localsgd.lab.models import build
from localsgd.lab.recipes import recipe
from localsgd.lab.tasks import FolderClassification
from tests.lab.small_runs import CPU
from tests.small_images import make_image_folder, small_image_folder

SMALL = ["workers=2", "batch_size=3", "period=2", "evaluation_batch_size=4", "model.name=resnet20"]
SMALL += ["precision=float32", "channels_last=true"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return small_image_folder(make_image_folder(tmp_path_factory.mktemp("images")))


@pytest.fixture
def task(images):
    config = recipe("imagenet-resnet50").overridden(SMALL)
    made = FolderClassification(config, images, Forward(config, CPU))
    yield made
    made.close()


def test_a_step_trains_on_the_images_of_the_stream(task, images):
    model = build("resnet20", seed=0, inputs=task.inputs)
    stream = SampleStream(len(images.train), num_workers=2, batch_size=3, seed=0)
    with FolderTrainingBatches(images, stream, seed=0, device=CPU, num_processes=0) as batches:
        pixels, labels = batches.batch(1, 1)
    assert torch.equal(labels, images.train.labels[stream.indices(1, 1)])
    expected = cross_entropy(model(pixels), labels)
    assert task.loss(model, step=1, worker=1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_batches_that_were_announced_are_the_ones_that_were_not(task):
    model = build("resnet20", seed=0, inputs=task.inputs)
    alone = [task.loss(model, step=step, worker=worker).item() for step in range(2) for worker in range(2)]
    task.expect(range(2), range(2))
    ahead = [task.loss(model, step=step, worker=worker).item() for step in range(2) for worker in range(2)]
    assert ahead == alone


def test_every_test_image_counts_once(task, images):
    model = build("resnet20", seed=0, inputs=task.inputs)
    scores = Evaluator(task, OneProcess()).shared(model)
    assert 0 <= scores["test_accuracy"] <= 1
    assert scores["test_accuracy"] * len(images.test) == pytest.approx(
        round(scores["test_accuracy"] * len(images.test))
    )
    assert sum(task.tally(model.eval(), part)["test_loss"][1] for part in range(task.num_parts)) == len(images.test)
