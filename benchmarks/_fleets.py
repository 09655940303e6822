"""The contestants of rows_throughput: ways of training K workers in one process, on the same samples."""

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import SGD

from localsgd.communicators import Communicator, OneProcess
from localsgd.lab.config import RunConfig
from localsgd.lab.data import Augmentation, DataSet, FeatureSet, Split
from localsgd.lab.forward import Forward
from localsgd.lab.models import build
from localsgd.lab.plan import make_plan
from localsgd.lab.recipes import recipe
from localsgd.lab.tasks import ImageClassification, LogisticRegression, Staged, Task
from localsgd.lab.workers import Workers

__all__ = [
    "RECIPES",
    "SGD_SETTINGS",
    "NaiveLoop",
    "Setting",
    "bare_floor",
    "big_batch",
    "engine_round",
    "make_task",
    "prepare",
    "sgd",
    "take_step",
    "total_of",
]

RECIPES = {
    "resnet20": "cifar10-resnet20",
    "resnet20-patch": "cifar10-resnet20-patch",
    "digits-mlp": "digits-mlp",
    "logistic": "w8a-logistic",
}
"""The recipe that trains each network."""
_NUM_SAMPLES = 10_000
_NUM_FEATURES = 300
_MOST_STEPS = 20_000
_RATE = 1e-3
SGD_SETTINGS: dict[str, Any] = {"lr": _RATE, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
"""Every contestant's optimizer."""

Block = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained."""

    model: str
    """Name of the network, one of `RECIPES`."""
    workers: int
    """K, over all processes."""
    batch_size: int
    """Samples B of one worker in one step."""
    period: int
    """Steps H from one sync to the next; a block is one round."""
    precision: str = "float32"
    """Arithmetic."""
    channels_last: bool = True
    """Memory format of convolutions."""
    device: str = "cpu"
    """Where."""
    seed: int = 0
    """Seed of weights and samples."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `write` gave."""
        return cls(**json.loads(text))

    def write(self) -> str:
        """Put it down for another process."""
        return json.dumps(asdict(self))

    def config(self, *, engine: str = "plain") -> RunConfig:
        """Configure a run that is long enough."""
        overrides = [f"workers={self.workers}", f"batch_size={self.batch_size}", f"period={self.period}"]
        overrides += ["algorithm=local", f"precision={self.precision}", f"seed={self.seed}", f"engine={engine}"]
        overrides += ["optimizer.milestones=()", "optimizer.warmup_epochs=0", "optimizer.scale_by_workers=false"]
        overrides += [f"optimizer.learning_rate={_RATE}", "data.train_limit=none", "reestimate_batches=none"]
        is_image = self.model.startswith("resnet")
        overrides += [f"epochs={_MOST_STEPS * self.workers * self.batch_size / _NUM_SAMPLES}"]
        overrides += [f"channels_last={str(self.channels_last and is_image).lower()}"]
        return recipe(RECIPES[self.model]).overridden(overrides)


def make_task(setting: Setting, forward: Forward) -> Task:
    """Make the network's task on noise of the shape of its data."""
    generator, config = torch.Generator().manual_seed(setting.seed), setting.config()
    if setting.model == "logistic":
        features = torch.randn((_NUM_SAMPLES, _NUM_FEATURES), generator=generator)
        labels = torch.randint(2, (_NUM_SAMPLES,), generator=generator).float() * 2 - 1
        data = FeatureSet(name="noise", features=features, labels=labels).to(forward.device)
        return LogisticRegression(config, data, minimum=0.0)
    is_small = setting.model == "digits-mlp"
    shape = (_NUM_SAMPLES, 1, 8, 8) if is_small else (_NUM_SAMPLES, 3, 32, 32)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    split = Split(images=images, labels=torch.randint(10, (_NUM_SAMPLES,), generator=generator))
    statistics = (0.5,) * shape[1]
    noise = DataSet(
        name="noise",
        train=split,
        test=split.first(100),
        num_classes=10,
        mean=statistics,
        std=statistics,
        augmentation=None if is_small else Augmentation(),
    )
    return ImageClassification(config, noise.to(forward.device), forward)


def prepare(setting: Setting) -> tuple[Forward, Task, nn.Module]:
    """Make what all contestants begin with: how inputs go through the network, the task, and the network itself."""
    forward = Forward(setting.config(), torch.device(setting.device))
    task = make_task(setting, forward)
    model = build(setting.config().model.name, seed=setting.seed, inputs=task.inputs)
    return forward, task, forward.place(model)


def engine_round(setting: Setting, engine: str, communicator: Communicator | None = None) -> Block:
    """Give one round of an engine of `localsgd.lab`, as `localsgd train` runs it."""
    forward, task, model = prepare(setting)
    plan = make_plan(setting.config(engine=engine), num_samples=_NUM_SAMPLES)
    workers = Workers(plan, task, model=model, forward=forward, communicator=communicator or OneProcess())
    done = 0

    def run() -> None:
        nonlocal done
        end = done + setting.period
        while done < end:
            done += workers.take_steps(done, end - done)
        _wait(setting)

    return run


class NaiveLoop:
    """One round of plain torch: K models and K optimizers, averaged parameter by parameter."""

    def __init__(self, setting: Setting) -> None:
        """Make models and optimizers.

        Args:
            setting: What is trained.
        """
        _, self._task, first = prepare(setting)
        self._setting, self._done = setting, 0
        self._models = [first, *(copy.deepcopy(first) for _ in range(setting.workers - 1))]
        self._optimizers = [sgd(model) for model in self._models]

    def __call__(self) -> None:
        """Train for one round."""
        for step in range(self._done, self._done + self._setting.period):
            for worker, (model, optimizer) in enumerate(zip(self._models, self._optimizers, strict=True)):
                take_step(self._task.loss(model, step=step, worker=worker), optimizer)
        self._done += self._setting.period
        with torch.no_grad():
            for same in zip(*(model.parameters() for model in self._models), strict=True):
                mean = torch.stack(same).mean(0)
                for parameter in same:
                    parameter.copy_(mean)
        _wait(self._setting)

    def total(self) -> float:
        """Add up the absolute values of all parameters: who trains the same has the same."""
        return total_of(self._models[0].parameters())


def big_batch(setting: Setting) -> Block:
    """Give as many steps of one model alone, each on the samples of all K workers: no engine should be much faster."""
    _, task, model = prepare(setting)
    if not isinstance(task, Staged):
        raise TypeError(f"{setting.model} has no task that falls into stages")
    optimizer, device, done = sgd(model), torch.device(setting.device), 0

    def run() -> None:
        nonlocal done
        for step in range(done, done + setting.period):
            draws = [task.draw(step=step, worker=worker) for worker in range(setting.workers)]
            take_step(task.batch_loss(model, task.batch(torch.cat(draws).to(device))), optimizer)
        done += setting.period
        _wait(setting)

    return run


def bare_floor(setting: Setting, *, rank: int, world_size: int) -> Block:
    """Give one round of the least that trains K / world_size workers in this process: rows swapped through one vector.

    One model whose parameters are views into one flat vector, and so is its gradient; a worker's parameters and momentum are
    copied in, stepped by one fused call, and copied out. The mean over all processes is left out.
    """
    _, task, model = prepare(setting)
    parameters = list(model.parameters())
    flat = torch.cat([_in_memory_order(parameter).detach().flatten() for parameter in parameters])
    gradient, momentum = torch.zeros_like(flat), torch.zeros_like(flat)
    offset = 0
    for parameter in parameters:
        strides, where = parameter.stride(), offset
        parameter.data = flat.as_strided(parameter.shape, strides, where)
        parameter.grad = gradient.as_strided(parameter.shape, strides, where)
        offset += parameter.numel()
    whole = nn.Parameter(flat)
    whole.grad = gradient
    optimizer = SGD([whole], **SGD_SETTINGS, fused=True)
    optimizer.state[whole]["momentum_buffer"] = momentum
    num_rows = setting.workers // world_size
    rows, velocities = flat.repeat(num_rows, 1), momentum.repeat(num_rows, 1)
    done = 0

    @torch.no_grad()
    def swap(source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def run() -> None:
        nonlocal done
        for step in range(done, done + setting.period):
            for row in range(num_rows):
                swap(rows[row], flat)
                swap(velocities[row], momentum)
                gradient.zero_()
                _backward(task.loss(model, step=step, worker=rank * num_rows + row))
                optimizer.step()
                swap(flat, rows[row])
                swap(momentum, velocities[row])
        rows.copy_(rows.mean(0))
        done += setting.period

    return run


def _in_memory_order(tensor: Tensor) -> Tensor:
    """See a dense tensor as its elements follow each other in memory."""
    order = sorted(range(tensor.dim()), key=lambda dimension: -tensor.stride()[dimension])
    return tensor.permute(order)


def sgd(model: nn.Module) -> SGD:
    """Make the optimizer of one worker, as torch does by default."""
    return SGD(model.parameters(), **SGD_SETTINGS)


def take_step(loss: Any, optimizer: SGD) -> None:
    """Go back from a loss and take a step."""
    _backward(loss)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def total_of(parameters: Iterable[Tensor]) -> float:
    """Add up absolute values, in double precision."""
    return sum(parameter.detach().double().abs().sum().item() for parameter in parameters)


def _backward(loss: Any) -> None:
    loss.backward()


def _wait(setting: Setting) -> None:
    if setting.device != "cpu":
        torch.cuda.synchronize()
