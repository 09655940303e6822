"""One worker under some settings, in a process of its own: what cpu_settings compares. See `_peers` for who gives orders."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import torch
from _orders import Orders
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from localsgd.lab.config import RunConfig
from localsgd.lab.engine.allocator import keep_freed_memory
from localsgd.lab.models import ImageInputs, TextInputs, build
from localsgd.lab.optimizers import make_optimizer
from localsgd.lab.recipes import recipe

__all__ = ["Case", "Variant", "Work", "main", "make_step"]

CIFAR = ImageInputs(num_classes=10, image_shape=(3, 32, 32))
DIGITS = ImageInputs(num_classes=10, image_shape=(1, 8, 8))
CHARACTERS = TextInputs(vocabulary_size=65)
_RATE = 1e-3
_NUM_WARMUPS = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and for how long in a block."""

    recipe: str
    """Recipe whose optimizer steps."""
    model: str
    """Name of the network."""
    batch_size: int
    """Samples, or windows of text, in a step."""
    num_steps: int
    """Steps in a block: about half a second of them on one core."""

    @property
    def title(self) -> str:
        """How tables call it."""
        return f"{self.model}, B={self.batch_size}"

    def config(self) -> RunConfig:
        """Configure it as the product would, whatever it would then choose by itself."""
        return recipe(self.recipe).overridden([f"model.name={self.model}", f"batch_size={self.batch_size}"])

    def inputs(self) -> ImageInputs | TextInputs:
        """Tell what the network reads."""
        if self.config().data.context is not None:
            return CHARACTERS
        return DIGITS if self.model.startswith("digits") else CIFAR

    def batch(self, seed: int) -> tuple[Tensor, Tensor]:
        """Make the batch of every step, of noise: what loading costs is another question."""
        draw, inputs = torch.Generator().manual_seed(seed), self.inputs()
        if isinstance(inputs, TextInputs):
            shape = (self.batch_size, (self.config().data.context or 0) + 1)
            tokens = torch.randint(inputs.vocabulary_size, shape, generator=draw)
            return tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()
        images = torch.randn((self.batch_size, *inputs.image_shape), generator=draw)
        return images, torch.randint(inputs.num_classes, (self.batch_size,), generator=draw)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Settings of one worker, and how many such workers have the cores at the same time."""

    processes: int
    """Processes side by side, each with a worker."""
    threads: int
    """Threads of each."""
    channels_last: bool
    """Memory format of convolutions."""
    precision: str
    """Arithmetic: ``float32``, or ``bfloat16`` by autocast."""
    compiled: bool
    """Whether `torch.compile` makes the forward and backward pass, in its default mode."""
    allocator: str
    """``tuned``: glibc keeps what a step frees; ``untuned``: as it comes."""
    optimizer: str
    """How a step goes over the tensors: ``fused``, ``foreach``, or ``for-loop``."""

    def changed(self, **fields: object) -> Self:
        """Give the same but for some fields."""
        return replace(self, **fields)  # type: ignore[arg-type]  # names and types are those of the fields

    def describe(self, fields: tuple[str, ...]) -> str:
        """Word some of the settings."""
        words = {
            "threads": f"{self.processes} x {self.threads} thread{'s' if self.threads > 1 else ''}",
            "memory format": "channels last" if self.channels_last else "contiguous",
            "precision": self.precision,
            "torch.compile": "compiled" if self.compiled else "eager",
            "allocator": f"{self.allocator} allocator",
            "optimizer": f"{self.optimizer} optimizer",
        }
        return ", ".join(words[field] for field in fields)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one process is told to do."""

    case: Case
    """What is trained."""
    variant: Variant
    """Under which settings."""
    seed: int
    """Seed of weights and batch."""

    def write(self) -> str:
        """Put it down for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `write` gave."""
        found = json.loads(text)
        return cls(case=Case(**found["case"]), variant=Variant(**found["variant"]), seed=found["seed"])


def main(path: str, text: str) -> None:
    """Train as told, a block for each order; tells how long the first step took, which compiles.

    Args:
        path: Where orders come from.
        text: The `Work`.
    """
    work = Work.read(text)
    torch.set_num_threads(work.variant.threads)
    if work.variant.allocator == "tuned":
        keep_freed_memory()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path.cwd())  # a folder of its own: nobody else has compiled for it
    step, _ = make_step(work)
    start = time.perf_counter()
    step()
    first_seconds = time.perf_counter() - start
    for _ in range(_NUM_WARMUPS):
        step()
    orders = Orders(path, lambda: first_seconds)
    while orders.wait():
        for _ in range(work.case.num_steps):
            step()
        orders.done()


def make_step(work: Work) -> tuple[Callable[[], None], nn.Module]:
    """Make the step of one worker.

    Args:
        work: What is trained, and how.

    Returns:
        The step, and the network that it trains.
    """
    case, variant = work.case, work.variant
    memory_format = torch.channels_last if variant.channels_last else torch.contiguous_format
    model = build(case.model, seed=work.seed, inputs=case.inputs())
    model.to(memory_format=memory_format)  # type: ignore[call-overload]  # the stub lacks it
    examples, targets = case.batch(work.seed)
    if examples.dim() == 4:
        examples = examples.contiguous(memory_format=memory_format)
    optimizer = _make_optimizer(case, variant, model)
    is_low = variant.precision == "bfloat16"

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
            found = model(examples)
        logits = found[0].flatten(0, 1) if isinstance(found, tuple) else found
        return cross_entropy(logits.float(), targets)

    forward: Callable[[], Tensor] = torch.compile(loss) if variant.compiled else loss

    def step() -> None:
        forward().backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, model


def _make_optimizer(case: Case, variant: Variant, model: nn.Module) -> Optimizer:
    """Make what the product would, then have it go over the tensors as the variant says."""
    optimizer = make_optimizer(model, case.config().optimizer, learning_rate=_RATE)
    for settings in [optimizer.defaults, *optimizer.param_groups]:
        settings["fused"] = variant.optimizer == "fused"
        settings["foreach"] = variant.optimizer == "foreach"
    return optimizer
